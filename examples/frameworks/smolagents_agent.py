"""Ask for the price of a coffee with smolagents, once whole and once as a stream.

    pip install 'smolagents[openai]'
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    agl run python examples/frameworks/smolagents_agent.py

Nothing here knows of Agent Lightning; ``agl show latest`` shows the run as a trace.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false
# (the frameworks are not installed where types are checked)

from __future__ import annotations

import os

from smolagents import OpenAIServerModel, ToolCallingAgent, tool

QUESTION = "Use get_price(product='coffee') and tell me what it costs."
MODEL = os.environ.get("MODEL", "gpt-4o-mini")


@tool
def get_price(product: str) -> float:
    """Return the price of a product in euros.

    Args:
        product: Name of the product.
    """
    return {"coffee": 3.2}[product]


def ask(question: str, *, stream: bool = False) -> str:
    """Run the agent, and return its answer."""
    model = OpenAIServerModel(MODEL, client_kwargs={"max_retries": 0})
    agent = ToolCallingAgent(tools=[get_price], model=model, max_steps=4, verbosity_level=0, stream_outputs=stream)
    return str(agent.run(question))


if __name__ == "__main__":
    print(ask(QUESTION))
    print(ask(QUESTION, stream=True))
