"""The records of a session in memory: which task they belong to, what is still open, and copies for readers.

Every method is thread-safe; the lock is held for list and dict operations only. A copy holds the same call and tool
records as the book: they never change once they have ended, but for a cost that is filled in.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from ai_agents.telemetry import archive
from ai_agents.telemetry.archive import covered_seconds
from ai_agents.telemetry.loose import aware, now, seconds_between
from ai_agents.telemetry.pricing import fill_cost, fill_costs
from ai_agents.telemetry.types import (
    AgentExecution,
    CodeMetrics,
    LLMCall,
    TaskExecution,
    TaskStatus,
    TelemetrySession,
    TokenUsage,
    ToolExecution,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from ai_agents.telemetry.types import EnvironmentInfo
    from ai_agents.telemetry.value import JsonObject

    Record = LLMCall | ToolExecution

UNASSIGNED = "_unassigned"
"""Id of the task that holds what no task was running for."""

MAX_RECORDS = 10_000
"""Calls, uses of tools, runs of agents and tasks that are kept in memory; what is older goes to disk."""

_KEPT_RECORDS = (1_000, 100, 10)
"""Newest records of each list that stay in memory when older ones leave it; less where that is not enough."""

_KEPT_AGENTS = 10_000
"""Runs of agents that a span may still be attached to."""


class Book:
    """The tasks of one session, open and ended, with everything in them."""

    def __init__(self, session_id: str, environment: EnvironmentInfo) -> None:
        """Open the session now."""
        self.lock = threading.RLock()
        self.session = TelemetrySession(session_id, now(), environment=environment, process=process_name())
        self.active_tasks: dict[str, TaskExecution] = {}
        self.active_agents: dict[str, AgentExecution] = {}
        self.active_tools: dict[str, ToolExecution] = {}
        self.unassigned: TaskExecution | None = None
        self.records = 0
        """Calls and uses of tools in memory."""
        self.shells = 0
        """Tasks that ended and runs of agents in memory."""
        self.archived = 0
        """Calls and uses of tools that were moved to disk."""
        self._pending: list[threading.Thread] = []
        # By id() of a record, which the value keeps alive: records whose agent has not ended yet.
        self._floating: dict[int, tuple[TaskExecution, Record]] = {}
        self._ended_tasks: dict[str, TaskExecution] = {}
        self._agents: OrderedDict[str, AgentExecution] = OrderedDict()

    def has_records(self) -> bool:
        """Tell whether anything was recorded."""
        return bool(self.session.tasks or self.active_tasks or self.unassigned or self.records)

    def wait_for(self, thread: threading.Thread) -> None:
        """Let readers wait for *thread*, which completes a record."""
        with self.lock:
            self._pending = [one for one in self._pending if one.is_alive()] + [thread]

    def complete(self, timeout_s: float = 5.0) -> None:
        """Wait until records that are being completed are complete, or until the time is over."""
        with self.lock:
            pending, self._pending = self._pending, []
        for thread in pending:
            thread.join(timeout_s)

    def newest_task(self) -> TaskExecution | None:
        """Return the open task that was started last."""
        with self.lock:
            return next(reversed(self.active_tasks.values())) if self.active_tasks else None

    def task(self, task_id: str | None = None) -> TaskExecution:
        """Return the open task *task_id*, else the one started last, else the one for what has none."""
        with self.lock:
            return self.active_tasks.get(task_id or "") or self.newest_task() or self.unassigned_task()

    def task_at(self, task_id: str | None, moment: datetime) -> TaskExecution:
        """Return the task *task_id*, open or ended, else the last one that had begun and not ended at *moment*."""
        with self.lock:
            if task_id is not None:
                named = self.active_tasks.get(task_id) or self._ended_tasks.get(task_id)
                if named is not None:
                    return named
            for task in reversed(self.active_tasks.values()):
                if task.start_time <= moment:
                    return task
            for task in reversed(self.session.tasks):  # they stand in the order in which they ended
                if task.end_time is None or task.end_time < moment:
                    break
                if task.start_time <= moment and task.task_id != UNASSIGNED:
                    return task
            return self.unassigned or self.unassigned_task(moment)

    def unassigned_task(self, moment: datetime | None = None) -> TaskExecution:
        """Return the task that holds what no task was running for, begun at its first record."""
        with self.lock:
            if self.unassigned is None:
                start = moment or now()
                self.unassigned = TaskExecution(UNASSIGNED, "", start, status=TaskStatus.IN_PROGRESS)
            return self.unassigned

    def close_task(self, task: TaskExecution, status: TaskStatus, error_message: str | None) -> None:
        """End a task and move it to the session's."""
        with self.lock:
            task.end_time = now() if task.start_time.tzinfo else now().astimezone().replace(tzinfo=None)
            task.status, task.error_message = status, error_message
            self.active_tasks.pop(task.task_id, None)
            self._ended_tasks[task.task_id] = task
            self.session.tasks.append(task)
            self.shells += 1

    def add(self, record: Record, target: TaskExecution | AgentExecution) -> None:
        """Append a record to a task or to the run of an agent."""
        with self.lock:
            self.records += 1
            _append(target, record)

    def float(self, record: Record, task: TaskExecution) -> None:
        """Keep a record with its task until it is known which agent it belongs to."""
        with self.lock:
            self.records += 1
            self._floating[id(record)] = (task, record)

    def settle(self, records: Iterable[Record], agent: AgentExecution | None) -> None:
        """Give floating records to *agent*, or with None to their tasks; those that left the memory are left out."""
        with self.lock:
            for record in records:
                found = self._floating.pop(id(record), None)
                if found is not None and found[1] is record:
                    _append(found[0] if agent is None else agent, record)

    def remember_agent(self, agent_id: str, agent: AgentExecution) -> None:
        """Keep a run of an agent for spans that come later."""
        with self.lock:
            self._agents[agent_id] = agent
            if len(self._agents) > _KEPT_AGENTS:
                self._agents.popitem(last=False)

    def agent(self, agent_id: str) -> AgentExecution | None:
        """Return a run of an agent that was remembered."""
        return self._agents.get(agent_id)

    def add_agent(self, task: TaskExecution, agent: AgentExecution) -> None:
        """Append the run of an agent to a task."""
        with self.lock:
            task.agents.append(agent)
            self.shells += 1

    def is_full(self, times: int = 1) -> bool:
        """Tell whether there is more in memory than should be, or so many times as much."""
        return self.records + self.shells > times * MAX_RECORDS

    def take_archive(self) -> list[JsonObject]:
        """Take older records out of memory, each as plain data, and keep their sums; empty unless there are too many.

        First go the older records of long lists and the older runs of tasks with many; then the tasks that ended first.
        """
        with self.lock:
            if not self.is_full():
                return []
            fill_costs(self._all_tasks())
            for _, record in self._floating.values():
                fill_cost(record)
            taken: list[JsonObject] = []
            for keep in _KEPT_RECORDS:
                taken += self._take_older(keep)
                if self.is_full():
                    taken += self._take_tasks()
                if not self.is_full():
                    break
            return taken

    def _take_older(self, keep: int) -> list[JsonObject]:
        taken = [
            archive.take_record(task, "", record)
            for task, record in map(self._floating.pop, list(self._floating)[:-keep])
        ]
        for task in self._all_tasks():
            taken += archive.take_records(task, keep)
            taken += archive.take_agents(task, keep)
        self._count_again()
        return taken

    def _take_tasks(self) -> list[JsonObject]:
        taken: list[JsonObject] = []
        for task, line in archive.take_tasks(self.session, self.records + self.shells, MAX_RECORDS // 2):
            taken.append(line)
            if self._ended_tasks.get(task.task_id) is task:
                del self._ended_tasks[task.task_id]
        self._count_again()
        return taken

    def _count_again(self) -> None:
        """Count what is in memory and what has left it."""
        tasks = self._all_tasks()
        agents = [agent for task in tasks for agent in task.agents] + list(self.active_agents.values())
        before = self.records
        self.records = len(self._floating) + sum(len(task.llm_calls) + len(task.tools) for task in tasks)
        self.records += sum(len(agent.llm_calls) + len(agent.tools_used) for agent in agents)
        self.shells = len(tasks) + len(agents)
        self.archived += before - self.records

    def copy(self, *, include_active: bool, include_unassigned: bool = False) -> TelemetrySession:
        """Return the session as it is: ended tasks, with *include_active* the open ones too; the sums hold all.

        With *include_unassigned* what belongs to no task is there as one that has ended with its last record. Calls
        whose price is known have their cost.
        """
        with self.lock:
            agents = list(zip(self.active_agents.values(), self._agent_tasks(), strict=True)) if include_active else []
            copies = {id(task): _copy_task(task) for task in self._all_tasks()}
            for task, record in self._floating.values():
                _append(copies.get(id(task)) or _copy_task(task), record)
            in_order = list(copies.values())  # the ended tasks come first
            ended, still_open = in_order[: len(self.session.tasks)], in_order[len(self.session.tasks) :]
            for agent, task in agents:
                copies[id(task)].agents.append(_copy_agent(agent))
            tasks, archived = [*ended, *(still_open if include_active else ())], TokenUsage()
            if include_unassigned and self.unassigned is not None and not include_active:
                tasks.append(_ended(still_open[-1]))
            archived.add_usage(self.session.archived_tokens)
            session = replace(self.session, tasks=tasks, archived_tokens=archived)
        every = [*ended, *still_open]
        fill_costs(every)
        return add_up(session, every)

    def finish(self) -> TelemetrySession:
        """End the session: what is open is PARTIAL, every duration is known, the sums are right. Idempotent."""
        with self.lock:
            if self.session.end_time is not None:
                return self.session
            end = now()
            self.settle([record for _, record in list(self._floating.values())], None)
            for agent, task in zip(list(self.active_agents.values()), self._agent_tasks(), strict=True):
                end_record(agent, end)
                task.agents.append(agent)
            for tool in self.active_tools.values():
                end_record(tool, end)
                self.last_task().tools.append(tool)
            self.active_agents.clear()
            self.active_tools.clear()
            for task in list(self.active_tasks.values()):
                self.close_task(task, TaskStatus.PARTIAL, task.error_message)
            if self.unassigned is not None:
                self.close_task(self.unassigned, TaskStatus.COMPLETED, None)
                self.unassigned.end_time = max(map(aware, _ends(self.unassigned)), default=end)
                self.unassigned = None
            self.session.end_time = end
            fill_costs(self.session.tasks)
            return add_up(self.session, self.session.tasks)

    def last_task(self) -> TaskExecution:
        """Return the task that a stray record belongs to: the newest open one, else the last that ended."""
        with self.lock:
            ended = self.session.tasks[-1] if self.session.tasks else None
            return self.newest_task() or ended or self.unassigned_task()

    def _agent_tasks(self) -> list[TaskExecution]:
        """Return for each open agent the task that it will belong to."""
        return [self.last_task() for _ in self.active_agents]

    def _all_tasks(self) -> list[TaskExecution]:
        extra = [] if self.unassigned is None else [self.unassigned]
        return [*self.session.tasks, *self.active_tasks.values(), *extra]


def process_name() -> str:
    """Return pid and start of this process, so that a reader can tell whether it still lives."""
    import psutil  # noqa: PLC0415 - 10 ms, and only where a session begins

    pid = os.getpid()
    try:
        return f"{pid}:{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return f"{pid}:0"


def end_record(record: AgentExecution | ToolExecution, end: datetime) -> None:
    """End what is open as PARTIAL, with its duration."""
    if record.end_time is None:
        record.end_time = end
        record.status = TaskStatus.PARTIAL
    if record.duration is None:
        record.duration = seconds_between(record.start_time, record.end_time)


def add_up(session: TelemetrySession, tasks: Sequence[TaskExecution]) -> TelemetrySession:
    """Fill in the sums of *session* over *tasks* and return it."""
    session.total_tokens = TokenUsage()
    session.total_tokens.add_usage(session.archived_tokens)
    for task in tasks:
        session.total_tokens.add_usage(task.get_total_tokens())
    intervals = [(aware(task.start_time), _end_of(task)) for task in tasks]
    session.total_duration = session.archived_duration + covered_seconds(intervals, session.archived_until)
    return session


def _ended(unassigned: TaskExecution) -> TaskExecution:
    """Return the task of what has none as it would be if there came nothing more."""
    unassigned.end_time, unassigned.status = _end_of(unassigned), TaskStatus.COMPLETED
    return unassigned


def _end_of(task: TaskExecution) -> datetime:
    if task.end_time is not None:
        return aware(task.end_time)
    if task.task_id == UNASSIGNED:
        return max(map(aware, _ends(task)), default=aware(task.start_time))
    return now()


def _ends(task: TaskExecution) -> Iterator[datetime]:
    for call in (*task.llm_calls, *(call for agent in task.agents for call in agent.llm_calls)):
        yield aware(call.timestamp) + timedelta(seconds=call.duration)
    for record in (*task.tools, *task.agents):
        if record.end_time is not None:
            yield record.end_time


def _append(target: TaskExecution | AgentExecution, record: Record) -> None:
    if isinstance(record, LLMCall):
        target.llm_calls.append(record)
    elif isinstance(target, TaskExecution):
        target.tools.append(record)
    else:
        target.tools_used.append(record)


def _copy_agent(agent: AgentExecution) -> AgentExecution:
    return replace(agent, llm_calls=list(agent.llm_calls), tools_used=list(agent.tools_used))


def _copy_task(task: TaskExecution) -> TaskExecution:
    archived = TokenUsage()
    archived.add_usage(task.archived_tokens)
    return replace(
        task,
        agents=[_copy_agent(agent) for agent in task.agents],
        tools=list(task.tools),
        llm_calls=list(task.llm_calls),
        code_changes=CodeMetrics(**vars(task.code_changes)),
        archived_tokens=archived,
    )
