"""Answer a question with smolagents: a manager calls a tool and asks a second agent, which computes in Python.

    pip install 'smolagents[openai]'
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    python examples/smolagents_agent.py

Nothing here knows of Agent Lightning. To see the run as a trace: ``agl run python examples/smolagents_agent.py``,
then ``agl show latest``.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (smolagents leaves some of its types open)

from __future__ import annotations

import os

from smolagents import CodeAgent, OpenAIServerModel, ToolCallingAgent, tool

PRICES = {"coffee": 3.2, "croissant": 2.4}


@tool
def get_price(product: str) -> float:
    """Return the price of a product in euros.

    Args:
        product: Name of the product, in lower case and singular.
    """
    return PRICES[product]


def make_agent() -> ToolCallingAgent:
    """Return a manager that knows prices and has a calculator to ask."""
    model = OpenAIServerModel(os.environ.get("MODEL", "gpt-4o-mini"))
    calculator = CodeAgent(
        tools=[],
        model=model,
        max_steps=3,
        name="calculator",
        description="Computes anything that can be written in Python. Give it the numbers.",
        verbosity_level=0,
    )
    return ToolCallingAgent(tools=[get_price], managed_agents=[calculator], model=model, max_steps=6, verbosity_level=0)


if __name__ == "__main__":
    print(make_agent().run("What do three coffees and two croissants cost together?"))
