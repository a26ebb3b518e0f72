"""Ask for the price of a coffee with LangChain's ``create_agent``, once whole and once as a stream.

    pip install langchain langchain-openai openinference-instrumentation-langchain
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    agl run python examples/frameworks/langchain_agent.py

Nothing here knows of Agent Lightning; ``agl show latest`` shows the run as a trace.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false, reportUnknownParameterType=false
# (the frameworks are not installed where types are checked)

from __future__ import annotations

import os
from typing import Any

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

QUESTION = "Use get_price(product='coffee') and tell me what it costs."
MODEL = os.environ.get("MODEL", "gpt-4o-mini")


def get_price(product: str) -> float:
    """Return the price of a product in euros."""
    return {"coffee": 3.2}[product]


def make_agent() -> Any:  # noqa: ANN401 - the framework's own type
    """Return an agent that knows prices."""
    model = ChatOpenAI(model=MODEL, stream_usage=True, max_retries=0)
    return create_agent(model, tools=[get_price], system_prompt="You know prices.", name="shop")


def ask(question: str, *, stream: bool = False) -> str:
    """Run the agent, and return its answer."""
    agent = make_agent()
    asked = {"messages": [{"role": "user", "content": question}]}
    if not stream:
        return agent.invoke(asked)["messages"][-1].text
    tokens = [token for token, _ in agent.stream(asked, stream_mode="messages")]
    return "".join(token.text for token in tokens if token.type == "AIMessageChunk")


async def ask_async(question: str) -> str:
    """Run the agent as a coroutine, and return its answer."""
    result = await make_agent().ainvoke({"messages": [{"role": "user", "content": question}]})
    return result["messages"][-1].text


if __name__ == "__main__":
    print(ask(QUESTION))
    print(ask(QUESTION, stream=True))
