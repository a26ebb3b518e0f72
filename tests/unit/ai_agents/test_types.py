"""The data classes of a session."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agents.telemetry import (
    AgentExecution,
    AgentType,
    CodeMetrics,
    EnvironmentInfo,
    LLMCall,
    TaskExecution,
    TaskStatus,
    TelemetrySession,
    TokenUsage,
    ToolExecution,
    deserialize_telemetry_data,
    serialize_telemetry_data,
)

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 11, 21, 10, 0, tzinfo=timezone.utc)
SHAPES: dict[str, Any] = {
    "session": TelemetrySession,
    "task": TaskExecution,
    "agent": AgentExecution,
    "tool": ToolExecution,
    "call": LLMCall,
    "tokens": TokenUsage,
    "code": CodeMetrics,
    "environment": EnvironmentInfo,
}


def session() -> TelemetrySession:
    """Return a session with one of everything."""
    calls = [LLMCall("m1", 10, 5, 15, 1.5, START, 0.25), LLMCall("m2", 1, 2, 3, 0.5, START, cached_tokens=1)]
    tool = ToolExecution("search", START, START + timedelta(seconds=2), status=TaskStatus.COMPLETED)
    agent = AgentExecution(AgentType.CODE, "coder", START, START + timedelta(seconds=4), llm_calls=calls)
    agent.tools_used.append(tool)
    task = TaskExecution("t", "what", START, START + timedelta(seconds=5), TaskStatus.FAILED, agents=[agent])
    task.llm_calls.append(LLMCall("m1", 1, 1, 2, 0.1, START))
    task.error_message = "ValueError: no"
    whole = TelemetrySession("s", START, environment=EnvironmentInfo("Linux", "6", "3.11.1", "/w", "/p"))
    whole.add_task(task)
    return whole


def records() -> dict[str, Any]:
    """Return one record of each shape."""
    whole = session()
    task = whole.tasks[0]
    agent = task.agents[0]
    code = CodeMetrics(1, 2, 3, 4, 5, 6)
    found = [whole, task, agent, agent.tools_used[0], agent.llm_calls[0], whole.total_tokens, code, whole.environment]
    return dict(zip(SHAPES, found, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_record_survives_json(shape: str) -> None:
    """What ``to_dict`` and ``to_json`` write is read back the same, and a second time too."""
    record = records()[shape]
    assert SHAPES[shape].from_dict(record.to_dict()) == record
    assert SHAPES[shape].from_json(record.to_json()) == record
    json.loads(record.to_json())


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=3))
def test_reading_takes_anything(shape: str, data: object) -> None:
    """A file of another release, with unknown and missing keys and odd values, is read as far as it goes (B26)."""
    keys = records()[shape].to_dict()
    read = SHAPES[shape].from_dict({**dict.fromkeys(keys, data), "unknown": 1})
    assert isinstance(read, SHAPES[shape])
    assert isinstance(SHAPES[shape].from_dict({}), SHAPES[shape])


def test_statuses_and_kinds_have_the_fixed_values() -> None:
    """The six statuses and five kinds of agents are the ones that files hold."""
    assert [one.value for one in TaskStatus] == [
        "not_started", "in_progress", "completed", "failed", "cancelled", "partial",
    ]  # fmt: skip
    assert [one.value for one in AgentType] == ["supervisor", "micro", "tool_calling", "code", "managed"]


def test_totals_have_models_and_cost() -> None:
    """A task's sum has its agents' calls, each model's part, and the costs that are known."""
    usage = session().tasks[0].get_total_tokens()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 8, 20)
    assert {model: part.total_tokens for model, part in usage.model_breakdown.items()} == {"m1": 17, "m2": 3}
    assert usage.cost_estimate == 0.25
    assert usage.model_breakdown["m2"].cost_estimate is None


def test_adding_usage_shares_nothing() -> None:
    """``add_usage`` adds in place, treats an unknown cost as absent and leaves the other one alone."""
    one = TokenUsage(1, 2)
    other = TokenUsage(10, 20, model_breakdown={"m": TokenUsage(10, 20)}, cost_estimate=0.5)
    assert one.total_tokens == 3
    one.add_usage(other)
    one.add_usage(other)
    one.add_usage(TokenUsage(0, 0))
    assert (one.total_tokens, one.cost_estimate) == (63, 1.0)
    assert one.model_breakdown["m"].total_tokens == 60
    assert other.model_breakdown["m"].total_tokens == 30


def test_durations_follow_from_times() -> None:
    """Durations are the time between start and end, None while open, also when one time has no zone."""
    assert ToolExecution("t", START).duration is None
    assert ToolExecution("t", START, START + timedelta(seconds=2)).duration == 2
    assert TaskExecution("t", "", START).duration is None
    naive = START.astimezone().replace(tzinfo=None)
    assert TaskExecution("t", "", naive, START + timedelta(seconds=3)).duration == 3
    with pytest.raises(AttributeError):
        TaskExecution("t", "", START).duration = 1  # type: ignore[misc]


def test_session_adds_up_its_tasks() -> None:
    """``add_task`` adds tokens and duration; the session's own duration is from start to end."""
    whole = session()
    assert (whole.total_tokens.total_tokens, whole.total_duration) == (20, 5)
    assert whole.get_session_duration() is None
    whole.end_time = START + timedelta(seconds=9)
    assert whole.get_session_duration() == 9


def test_file_of_a_session(tmp_path: Path) -> None:
    """``save_to_file`` makes the folders, and ``load_from_file`` reads the same session."""
    path = tmp_path / "a" / "b.json"
    session().save_to_file(path)
    assert TelemetrySession.load_from_file(path) == session()


def test_session_file_has_the_documented_keys() -> None:
    """The keys of the format are all there."""
    data = session().to_dict()
    assert set(data) >= {
        "session_id", "start_time", "end_time", "session_duration", "environment", "tasks", "total_tokens",
        "total_duration", "schema_version",
    }  # fmt: skip
    assert set(data["tasks"][0]) >= {
        "task_id", "description", "start_time", "end_time", "duration", "status", "sop_category", "agents", "tools",
        "llm_calls", "code_changes", "error_message",
    }  # fmt: skip
    assert set(data["tasks"][0]["agents"][0]) >= {
        "agent_type", "agent_name", "start_time", "end_time", "duration", "status", "llm_calls", "tools_used",
        "error_message",
    }  # fmt: skip


def test_serializing_by_kind() -> None:
    """The two functions turn sessions, tasks and agents into text and back, and refuse other kinds."""
    whole = session()
    task = whole.tasks[0]
    for kind, record in (("session", whole), ("task", task), ("agent", task.agents[0])):
        assert deserialize_telemetry_data(serialize_telemetry_data(record), kind) == record
    assert json.loads(serialize_telemetry_data({"a": START}))["a"]
    with pytest.raises(ValueError, match="Unknown data type: tool"):
        deserialize_telemetry_data("{}", "tool")
