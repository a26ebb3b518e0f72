"""What leaves the memory when a session grows too long: the older records, each as plain data, with their sums kept.

The functions take records out of the tasks and the session they are given; the caller holds the lock of the book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_agents.telemetry.loose import aware
from ai_agents.telemetry.types import AgentExecution, LLMCall

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from ai_agents.telemetry.types import TaskExecution, TelemetrySession, ToolExecution
    from ai_agents.telemetry.value import JsonObject

    Record = LLMCall | ToolExecution

_KEPT_TASKS = 100


def take_record(task: TaskExecution, agent_name: str, record: Record) -> JsonObject:
    """Return a call or a use of a tool as a line, and add it to the sums of its task."""
    task.archived_records += 1
    kind = "tool"
    if isinstance(record, LLMCall):
        kind = "call"
        task.archived_tokens.add_call(record)
    return {"kind": kind, "task_id": task.task_id, "agent_name": agent_name, **record.to_dict()}


def take_records(task: TaskExecution, keep: int) -> Iterator[JsonObject]:
    """Take all but the newest *keep* records out of each list of *task* and of its agents."""
    for agent_name, records in _lists(task):
        taken = records[:-keep]
        del records[:-keep]
        for record in taken:
            yield take_record(task, agent_name, record)


def take_agents(task: TaskExecution, keep: int) -> Iterator[JsonObject]:
    """Take all but the newest *keep* runs of agents out of *task*."""
    taken = task.agents[:-keep]
    del task.agents[:-keep]
    for agent in taken:
        task.archived_agents += 1
        task.archived_records += len(agent.llm_calls) + len(agent.tools_used)
        task.archived_tokens.add_usage(agent.get_total_tokens())
        line = {"kind": "agent", "task_id": task.task_id, **agent.to_dict()}
        _empty(agent)
        yield line


def take_tasks(session: TelemetrySession, size: int, wanted: int) -> Iterator[tuple[TaskExecution, JsonObject]]:
    """Take the tasks that ended first out of *session*, until what was *size* records is at most *wanted*."""
    place = 0
    while size > wanted and place < len(session.tasks) - _KEPT_TASKS:
        task = session.tasks[place]
        size -= size_of(task)
        place += 1
    taken = session.tasks[:place]
    del session.tasks[:place]
    session.archived_duration += covered(taken, session.archived_until)
    ends = [aware(task.end_time) for task in taken if task.end_time is not None]
    session.archived_until = max([*ends, *([] if session.archived_until is None else [session.archived_until])])
    for task in taken:
        session.archived_tasks += 1
        session.archived_tokens.add_usage(task.get_total_tokens())
        line = {"kind": "task", **task.to_dict()}
        for agent in task.agents:
            _empty(agent)
        yield task, line


def size_of(task: TaskExecution) -> int:
    """Return how many records *task* is and holds."""
    inside = sum(1 + len(agent.llm_calls) + len(agent.tools_used) for agent in task.agents)
    return 1 + len(task.llm_calls) + len(task.tools) + inside


def covered(tasks: Sequence[TaskExecution], since: datetime | None = None) -> float:
    """Return the seconds after *since* in which at least one of some ended tasks ran."""
    return covered_seconds(
        [(aware(task.start_time), aware(task.end_time)) for task in tasks if task.end_time is not None], since
    )


def covered_seconds(intervals: list[tuple[datetime, datetime]], since: datetime | None = None) -> float:
    """Return the seconds after *since* that lie in at least one interval: tasks that run at once count once."""
    total = 0.0
    until = since
    for start, end in sorted(intervals):
        begin = start if until is None or start > until else until
        total += max(0.0, (end - begin).total_seconds())
        until = end if until is None or end > until else until
    return total


def _lists(task: TaskExecution) -> Iterator[tuple[str, list[LLMCall] | list[ToolExecution]]]:
    yield "", task.llm_calls
    yield "", task.tools
    for agent in task.agents:
        yield agent.agent_name, agent.llm_calls
        yield agent.agent_name, agent.tools_used


def _empty(agent: AgentExecution) -> None:
    """Let go of what an archived run holds: somebody may still hold the run."""
    agent.llm_calls, agent.tools_used = [], []
