# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (smolagents leaves some of its types open)

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from smolagents import CodeAgent, OpenAIServerModel, ToolCallingAgent, tool

from agentlightning.testing import AgentRule, ModelServer, ToolCall
from agentlightning.testing.demo import answer

if TYPE_CHECKING:
    from collections.abc import Generator

EXAMPLES = Path(__file__).parents[3] / "examples"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


@pytest.fixture
def server() -> Generator[ModelServer]:
    """A server that drives agents by what their task says."""
    with ModelServer(AgentRule()) as server:
        yield server


@pytest.fixture
def model(server: ModelServer) -> Generator[OpenAIServerModel]:
    """The model that smolagents uses, over real HTTP."""
    model = OpenAIServerModel("gpt-4o-mini", api_base=server.url, api_key="x")
    yield model
    model.client.close()


def test_tool_calling_agent(server: ModelServer, model: OpenAIServerModel) -> None:
    """A real ToolCallingAgent calls the tool that its task names and finishes with its result."""
    agent = ToolCallingAgent(tools=[add], model=model, max_steps=4, verbosity_level=0)
    assert agent.run("Please add(a=2, b=40)") == "42"
    assert len(server.requests) == 2


@pytest.mark.skipif(
    "stream_outputs" not in inspect.signature(ToolCallingAgent).parameters, reason="this smolagents does not stream"
)
def test_tool_calling_agent_that_streams(server: ModelServer, model: OpenAIServerModel) -> None:
    """The same over streamed answers."""
    agent = ToolCallingAgent(tools=[add], model=model, max_steps=4, verbosity_level=0, stream_outputs=True)
    assert agent.run("Please add(a=2, b=40)") == "42"
    assert len(server.requests) == 2


def test_code_agent(server: ModelServer, model: OpenAIServerModel) -> None:
    """A real CodeAgent runs the call as code and finishes with what it printed."""
    agent = CodeAgent(tools=[add], model=model, max_steps=4, verbosity_level=0)
    assert agent.run("Please add(a=2, b=40)") == "42"
    assert len(server.requests) == 2


def test_planning_is_answered(server: ModelServer, model: OpenAIServerModel) -> None:
    """Requests for a plan get one and do not count as steps."""
    agent = ToolCallingAgent(tools=[add], model=model, max_steps=4, verbosity_level=0, planning_interval=1)
    assert agent.run("Please add(a=2, b=40)") == "42"
    assert len(server.requests) == 4


def test_managed_agent() -> None:
    """One plan drives a manager and the agent below it, each with what it can do."""
    rule = AgentRule((ToolCall("helper", {"task": "compute"}), ToolCall("add", {"a": 1, "b": 2})), answer="over")
    with ModelServer(rule) as server:
        model = OpenAIServerModel("gpt-4o-mini", api_base=server.url, api_key="x")
        helper = CodeAgent([add], model, max_steps=3, name="helper", description="helps", verbosity_level=0)
        agent = ToolCallingAgent([], model, managed_agents=[helper], max_steps=3, verbosity_level=0)
        assert agent.run("go") == "over"
        assert len(server.requests) == 4
        model.client.close()


@pytest.mark.parametrize(
    ("name", "requests", "last_line"),
    [
        (
            "openai_agent.py",
            4,
            "Meet me in Alfama at two, the sun is out. We end at Belem Tower, and the pastry is on me.",
        ),
        ("smolagents_agent.py", 6, "Three coffees and two croissants cost 14.40 euros together."),
    ],
)
def test_examples_run_as_they_are(name: str, requests: int, last_line: str) -> None:
    """The examples are programs that finish by themselves and know nothing of this package."""
    assert "import agentlightning" not in (EXAMPLES / name).read_text()
    with ModelServer(answer) as server:
        result = subprocess.run(
            [sys.executable, str(EXAMPLES / name)],
            env={**os.environ, **server.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines()[-1] == last_line
        assert len(server.requests) == requests
