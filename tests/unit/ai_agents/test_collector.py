"""Recording by hand."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from ai_agents.telemetry import AgentType, CodeMetrics, LLMCall, TaskStatus, TelemetryCollector, book

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def collector() -> TelemetryCollector:
    """An empty one."""
    return TelemetryCollector("s")


def call(model: str = "m", tokens: int = 3) -> LLMCall:
    """Return a call."""
    return LLMCall(model, tokens, 0, tokens, 0.1, datetime.now(timezone.utc))


def test_task_begins_and_ends(collector: TelemetryCollector) -> None:
    """A task is open until it ends; then it is in the session with status, error and what it changed."""
    collector.start_task("t", "what to do", "review")
    assert list(collector.get_active_tasks()) == ["t"]
    assert collector.get_session_data().tasks == []
    collector.record_code_changes("t", 1, 2, lines_added=3)
    collector.end_task("t", TaskStatus.FAILED, "broken")
    (task,) = collector.get_session_data().tasks
    assert (task.task_id, task.description, task.sop_category) == ("t", "what to do", "review")
    assert (task.status, task.error_message) == (TaskStatus.FAILED, "broken")
    assert task.code_changes == CodeMetrics(1, 2, 0, 3)
    assert task.duration is not None
    assert collector.get_active_tasks() == {}


def test_second_start_and_unknown_end_change_nothing(collector: TelemetryCollector) -> None:
    """A task that is open keeps its first description, and ending what is not open does nothing."""
    collector.start_task("t", "first")
    collector.start_task("t", "second")
    collector.end_task("other", TaskStatus.COMPLETED)
    assert collector.get_active_tasks()["t"].description == "first"


def test_calls_find_their_place(collector: TelemetryCollector) -> None:
    """A call goes to the open agent, else the named task, else the newest task, else the session's own (B11)."""
    collector.record_llm_call(model="stray", prompt_tokens=1, completion_tokens=1, duration=0.1)
    collector.start_task("one", "")
    collector.start_task("two", "")
    collector.start_agent_execution("a", AgentType.MICRO, "helper", "one")
    collector.record_llm_call(call("agent"), agent_id="a")
    collector.record_llm_call(call("named"), task_id="one")
    collector.record_llm_call("newest", 100, 50, 2.5)
    collector.end_agent_execution("a", TaskStatus.COMPLETED)
    collector.end_task("one", TaskStatus.COMPLETED)
    collector.end_task("two", TaskStatus.COMPLETED)
    one, two = collector.get_session_data().tasks
    assert [each.model for each in one.llm_calls] == ["named"]
    assert [each.model for each in one.agents[0].llm_calls] == ["agent"]
    assert [(each.model, each.total_tokens) for each in two.llm_calls] == [("newest", 150)]
    assert collector.get_session_data().total_tokens.total_tokens == 2 + 3 + 3 + 150
    every = collector.get_session_data(include_active=True).tasks
    assert [task.task_id for task in every] == ["one", "two", book.UNASSIGNED]


def test_finished_runs_are_recorded_whole(collector: TelemetryCollector) -> None:
    """A run or a use of a tool that is over is recorded with its duration, a kind in any case, unknown as MICRO."""
    collector.start_task("t", "")
    collector.record_agent_execution(agent_type="SuperVisor", agent_name="R", duration=30.2)
    collector.record_agent_execution("strange", "X", 1, llm_calls=[call()], error_message="no")
    collector.record_tool_usage("file_reader", 0.8)
    collector.end_task("t", TaskStatus.COMPLETED)
    (task,) = collector.get_session_data().tasks
    assert [agent.agent_type for agent in task.agents] == [AgentType.SUPERVISOR, AgentType.MICRO]
    assert task.agents[0].duration == 30.2
    assert task.agents[0].end_time is not None
    assert (task.agents[0].end_time - task.agents[0].start_time).total_seconds() == pytest.approx(30.2)
    assert [(tool.tool_name, tool.duration) for tool in task.tools] == [("file_reader", 0.8)]
    assert task.get_total_tokens().total_tokens == 3


def test_tools_go_to_their_agent(collector: TelemetryCollector) -> None:
    """A tool that was started for an agent ends up with it."""
    collector.start_task("t", "")
    collector.start_agent_execution("a", AgentType.CODE, "coder", "t")
    collector.start_tool_execution("x", "grep", "a")
    assert list(collector.get_active_tools()) == ["x"]
    collector.end_tool_execution("x", TaskStatus.FAILED, error_message="no")
    collector.end_agent_execution("a", TaskStatus.COMPLETED)
    (agent,) = collector.get_active_tasks()["t"].agents
    assert [(tool.tool_name, tool.status, tool.error_message) for tool in agent.tools_used] == [
        ("grep", TaskStatus.FAILED, "no")
    ]


def test_supervisor_task_is_task_and_agent(collector: TelemetryCollector) -> None:
    """A supervisor's task begins and ends with the supervisor's run."""
    agent_id = collector.start_supervisor_task("t", "what", "Boss", "review")
    assert agent_id == "t_supervisor_Boss"
    collector.end_supervisor_task("t", agent_id, TaskStatus.COMPLETED)
    (task,) = collector.get_session_data().tasks
    assert [(agent.agent_name, agent.agent_type) for agent in task.agents] == [("Boss", AgentType.SUPERVISOR)]


def test_end_of_session_leaves_nothing_open(collector: TelemetryCollector) -> None:
    """What is open ends as PARTIAL with its duration, and is in the sums (B10); the second end changes nothing."""
    collector.start_task("t", "")
    collector.start_agent_execution("a", AgentType.CODE, "coder", "t")
    collector.record_llm_call(call(tokens=7), agent_id="a")
    collector.start_tool_execution("x", "grep")
    whole = collector.finalize_session()
    (task,) = whole.tasks
    (agent,) = task.agents
    (tool,) = task.tools
    assert [one.status for one in (task, agent, tool)] == [TaskStatus.PARTIAL] * 3
    assert None not in {task.duration, agent.duration, tool.duration, whole.end_time}
    assert whole.total_tokens.total_tokens == 7
    assert collector.finalize_session() is whole


def test_overlapping_tasks_count_once(collector: TelemetryCollector) -> None:
    """The total duration is the time in which a task ran, however many did at once (B11)."""
    for task_id in "ab":
        collector.start_task(task_id, "")
    for task_id in "ab":
        collector.end_task(task_id, TaskStatus.COMPLETED)
    whole = collector.get_session_data()
    longest = max(task.duration or 0 for task in whole.tasks)
    assert longest <= whole.total_duration < sum(task.duration or 0 for task in whole.tasks)


def test_nothing_raises_for_odd_values(collector: TelemetryCollector) -> None:
    """Empty, negative, huge and unknown values are taken as they are."""
    collector.start_task("", "")
    collector.record_llm_call("", -1, -2, -3.0, task_id="?", agent_id="?")
    collector.record_llm_call(duration=float("nan"))
    collector.record_agent_execution("", "", float("inf"))
    collector.record_tool_usage("", -1)
    collector.end_agent_execution("?", TaskStatus.COMPLETED)
    collector.end_tool_execution("?", TaskStatus.COMPLETED)
    collector.record_code_changes("?", 1)
    collector.finalize_session().to_json()


def test_threads_lose_nothing(collector: TelemetryCollector) -> None:
    """Tasks and calls of many threads are all there."""

    def work(number: int) -> None:
        for place in range(3):
            name = f"{number}.{place}"
            collector.start_task(name, "")
            collector.record_llm_call(call(), task_id=name)
            collector.end_task(name, TaskStatus.COMPLETED)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = collector.get_session_data()
    assert len(whole.tasks) == 15
    assert whole.total_tokens.total_tokens == 45


def test_environment_by_allow_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment names system, project and six variables; where the probe fails, the system is unknown."""
    (tmp_path / "pyproject.toml").touch()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("USER", "ann")
    found = TelemetryCollector().get_session_data().environment
    assert (found.project_root, found.working_directory, found.user_name) == (str(tmp_path), str(inner), "ann")
    assert set(found.environment_variables) <= {
        "PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_DEFAULT_ENV", "HOME", "PWD",
    }  # fmt: skip
    with patch("platform.system", side_effect=OSError):
        found = TelemetryCollector().get_session_data().environment
    assert (found.os_type, found.os_version, found.python_version) == ("unknown",) * 3


def test_huge_session_is_bounded(collector: TelemetryCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old records leave the memory, and the sums keep them."""
    monkeypatch.setattr(book, "MAX_RECORDS", 2_000)
    collector.start_task("t", "")
    for _ in range(3_000):
        collector.record_llm_call(call(tokens=2))
    taken = collector.book.take_archive()
    assert len(taken) == 2_000
    assert collector.book.records == 1_000
    whole = collector.get_session_data(include_active=True)
    assert len(whole.tasks[0].llm_calls) == 1_000
    assert whole.total_tokens.total_tokens == 6_000
    assert collector.book.take_archive() == []
