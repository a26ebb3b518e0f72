"""Ask for the price of a coffee with the OpenAI Agents SDK, once whole and once as a stream.

    pip install openai-agents openinference-instrumentation-openai-agents
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    agl run python examples/frameworks/openai_agents_agent.py

Nothing here knows of Agent Lightning; ``agl show latest`` shows the run as a trace.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false, reportUnknownParameterType=false
# (the frameworks are not installed where types are checked)

from __future__ import annotations

import asyncio
import os
from typing import Any

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from openai import AsyncOpenAI

QUESTION = "Use get_price(product='coffee') and tell me what it costs."
MODEL = os.environ.get("MODEL", "gpt-4o-mini")
CHAT = os.environ.get("OPENAI_AGENTS_API") == "chat_completions"
"""Whether to use chat completions, as servers of open models want it, and not OpenAI's responses."""


@function_tool
def get_price(product: str) -> float:
    """Return the price of a product in euros."""
    return {"coffee": 3.2}[product]


def make_agent(client: AsyncOpenAI) -> Any:  # noqa: ANN401 - the framework's own type
    """Return an agent that knows prices."""
    model = OpenAIChatCompletionsModel(MODEL, client) if CHAT else OpenAIResponsesModel(MODEL, client)
    return Agent(name="shop", instructions="You know prices.", tools=[get_price], model=model)


async def ask_async(question: str, *, stream: bool = False) -> str:
    """Run the agent, and return its answer."""
    async with AsyncOpenAI(max_retries=0) as client:
        agent = make_agent(client)
        if not stream:
            return (await Runner.run(agent, question)).final_output
        run = Runner.run_streamed(agent, question)
        deltas = [
            event.data.delta
            async for event in run.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        return "".join(deltas)


def ask(question: str, *, stream: bool = False) -> str:
    """Run the agent in an event loop of its own."""
    return asyncio.run(ask_async(question, stream=stream))


if __name__ == "__main__":
    print(ask(QUESTION))
    print(ask(QUESTION, stream=True))
