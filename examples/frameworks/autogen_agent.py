"""Ask for the price of a coffee with AutoGen's agentchat, once whole and once as a stream.

    pip install autogen-agentchat 'autogen-ext[openai]' openinference-instrumentation-autogen-agentchat
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    agl run python examples/frameworks/autogen_agent.py

Nothing here knows of Agent Lightning; ``agl show latest`` shows the run as a trace.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false, reportUnknownParameterType=false
# (the frameworks are not installed where types are checked)

from __future__ import annotations

import asyncio
import os
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ModelClientStreamingChunkEvent
from autogen_ext.models.openai import OpenAIChatCompletionClient

QUESTION = "Use get_price(product='coffee') and tell me what it costs."
MODEL = os.environ.get("MODEL", "gpt-4o-mini")


def get_price(product: str) -> float:
    """Return the price of a product in euros."""
    return {"coffee": 3.2}[product]


def make_client(*, stream: bool) -> OpenAIChatCompletionClient:
    """Return a client; without the option a server counts no tokens of a stream."""
    counted = {"stream_options": {"include_usage": True}} if stream else {}
    return OpenAIChatCompletionClient(model=MODEL, max_retries=0, **counted)


def make_agent(client: OpenAIChatCompletionClient, *, stream: bool = False) -> Any:  # noqa: ANN401 - the framework's own type
    """Return an agent that knows prices."""
    return AssistantAgent(
        "shop",
        client,
        tools=[get_price],
        system_message="You know prices.",
        reflect_on_tool_use=True,
        model_client_stream=stream,
    )


async def ask_async(question: str, *, stream: bool = False) -> str:
    """Run the agent, and return its answer."""
    client = make_client(stream=stream)
    try:
        agent = make_agent(client, stream=stream)
        if not stream:
            return (await agent.run(task=question)).messages[-1].content
        chunks = [event async for event in agent.run_stream(task=question)]
        return "".join(event.content for event in chunks if isinstance(event, ModelClientStreamingChunkEvent))
    finally:
        await client.close()


def ask(question: str, *, stream: bool = False) -> str:
    """Run the agent in an event loop of its own."""
    return asyncio.run(ask_async(question, stream=stream))


if __name__ == "__main__":
    print(ask(QUESTION))
    print(ask(QUESTION, stream=True))
