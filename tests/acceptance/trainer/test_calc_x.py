"""The arithmetic agent as a user runs it: bare, decorated, and in a trainer."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import find_final_reward, open_store
from agentlightning.testing import ModelServer, Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.testing import ChatRequest

FOLDER = Path(__file__).parents[3] / "examples/calc_x"


def calculating(request: ChatRequest) -> Reply:
    """Be a model that asks the calculator for what is in the question, and answers with what that said."""
    last = request.messages[-1]
    if last.role == "tool":
        return Reply(last.text)
    found = re.search(r"What is (.*)\?", request.last_text)
    assert found is not None
    return Reply(tool_calls=(ToolCall("calculate", {"expression": found[1]}),))


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """Give a model that can use a calculator."""
    with ModelServer(calculating) as server:
        yield server


def run(server: ModelServer, *command: str) -> str:
    """Return what a program prints that talks to *server*."""
    answer = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=60, cwd=FOLDER,
        env={**os.environ, **server.environment},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def stored(home: Path) -> list[tuple[Any, str, int, float | None]]:
    """Return input, status, number of model calls and reward of every rollout in the default store."""

    async def read() -> list[tuple[Any, str, int, float | None]]:
        store = open_store(str(home / "agentlightning.db"))
        found: list[tuple[Any, str, int, float | None]] = []
        for rollout in await store.query_rollouts():
            spans = await store.query_spans(rollout.rollout_id)
            calls = sum(span.name == "ChatCompletion" for span in spans)
            found.append((rollout.input, rollout.status, calls, find_final_reward(spans)))
        store.close()
        return found

    return asyncio.run(read())


def test_the_bare_program_is_traced(server: ModelServer, isolated: Path) -> None:
    """Under ``agl run`` the agent with no decorator is a rollout with its two model calls."""
    printed = run(server, "-m", "agentlightning.cli", "run", "--quiet", sys.executable, "calc.py", "What is 7 * 6?")
    assert printed == "42\n"
    ((_, status, calls, reward),) = stored(isolated)
    assert (status, calls, reward) == ("succeeded", 2, None)


def test_the_decorated_agent_is_a_rollout_for_each_task(server: ModelServer, isolated: Path) -> None:
    """With one decorator each direct call is a rollout with task, model calls and reward."""
    printed = run(server, "agent.py")
    assert printed.splitlines()[0] == "What is 12 * (3 + 4)? 1.0"
    found = stored(isolated)
    assert [(status, calls, reward) for _, status, calls, reward in found] == [("succeeded", 2, 1.0)] * 4
    assert found[1][0] == {"question": "What is 100 - 7 * 9?", "result": "37"}


def test_the_trainer_runs_every_task(server: ModelServer, isolated: Path) -> None:
    """In ``Trainer.dev`` each task runs once; rewards are printed, and the rollouts arrive in the default store."""
    printed = run(server, "dev.py")
    assert [line.rpartition("? ")[2] for line in printed.splitlines()] == ["succeeded 1.0"] * 4
    assert [(status, calls, reward) for _, status, calls, reward in stored(isolated)] == [("succeeded", 2, 1.0)] * 4


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * (3 + 4)", "14"),
        ("-1 / 4", "-0.25"),
        ("1 / 0", "error: division by zero"),
        ("__import__('os')", "error: only"),
        ("2 +", "error:"),
    ],
)
def test_the_calculator_knows_arithmetic_only(expression: str, value: str) -> None:
    """The tool computes numbers, and tells the model what it cannot do."""
    code = f"from calc import calculate; print(calculate({expression!r}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER)
    assert answer.stdout.startswith(value)
