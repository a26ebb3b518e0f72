"""``AgentOpsTracer`` with the real SDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.view.facts import facts

if TYPE_CHECKING:
    from agentlightning.testing import ModelServer

pytestmark = pytest.mark.timeout(120)

PROGRAMS = Path(__file__).with_name("programs")


def test_managed_tracer_undoes_everything_and_works_again(sdk: Any, model: ModelServer) -> None:
    """Server, environment and SDK come and go; rollouts in threads and tasks are kept apart; the log says by whom."""
    end = sdk.run((PROGRAMS / "managed.py").read_text(), patience_s=100).check()
    said = json.loads(end.stdout.splitlines()[-1])
    for found in said["rounds"]:
        assert found["url"].startswith("http://127.0.0.1:")
        assert found["last"] == ["openai.chat.completion"]
        assert found["same"] == [True] * 4
        assert not found["server"]
    assert said["log"] == ["AgentOpsTracer records with the AgentOps SDK"] * 2
    rollouts = {rollout.rollout_id: rollout.input for rollout in sdk.rollouts() if rollout.input}
    assert sorted(rollouts.values()) == sorted(
        ["first-0", "first-1", *["thread-0", "thread-1", "task-1", "task-2"] * 2]
    )
    for rollout_id, name in rollouts.items():
        spans = sdk.spans(rollout_id)
        kinds = sorted(facts(span.name, span.attributes).kind for span in spans)
        assert kinds == (["llm", "reward"] if name.startswith("task") else ["llm"]), name
        assert len({span.trace_id for span in spans}) == 1, "one trace for each rollout"


def test_combinations_of_what_is_managed(sdk: Any, model: ModelServer) -> None:
    """Without instrumentation nothing is patched; without management there is no server and the client is joined."""
    end = sdk.run((PROGRAMS / "combinations.py").read_text(), patience_s=100).check()
    said = json.loads(end.stdout.splitlines()[-1])
    chat = "openai.chat.completion"
    first = said["managed, not instrumented"]
    assert (first["spans"], first["server"], first["initialized"]) == ([[chat, False]], True, True)
    assert said["afterwards"] is False
    second = said["instrumented, not managed"]
    assert (second["spans"], second["server"], second["initialized"]) == ([[chat, True]], False, True)
    assert said["still the program's"] is True
    third = said["neither"]
    assert (third["spans"], third["server"], third["initialized"]) == ([[chat, False]], False, True)
    assert second["engine"] == third["engine"] == "the AgentOps client of the program"


@pytest.mark.parametrize("strategy", ["shm", pytest.param("cs", marks=pytest.mark.slow)])
def test_trainer_with_threads_and_with_processes(sdk: Any, model: ModelServer, strategy: str) -> None:
    """Each rollout has its call, with ids, and its one reward, whichever way the workers run."""
    end = sdk.run((PROGRAMS / "trained.py").read_text(), patience_s=110, STRATEGIES=strategy).check()
    (line,) = [json.loads(line) for line in end.stdout.splitlines() if line.startswith("[")]
    name, states, found = line
    assert name == strategy
    assert states == {f"{strategy}-{number}": "succeeded" for number in range(4)}
    for spans in found.values():
        assert spans == [["agentlightning.reward.task", False], ["openai.chat.completion", True]]
