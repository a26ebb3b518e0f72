"""The collector: the main way to record by hand what agents, models and tools did."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from ai_agents.telemetry.book import Book
from ai_agents.telemetry.environment import find_project_root, read_environment
from ai_agents.telemetry.log import logger
from ai_agents.telemetry.loose import as_choice, now, seconds_between
from ai_agents.telemetry.types import (
    AgentExecution,
    AgentType,
    CodeMetrics,
    EnvironmentInfo,
    LLMCall,
    TaskExecution,
    TaskStatus,
    TelemetrySession,
    ToolExecution,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_TEXT = 500
"""Characters of a description or an error message that are kept; a supervisor's task may hold a whole workflow."""


class TelemetryCollector:
    """Records of one session. Thread-safe; no method raises for what it is given.

    What the libraries' own spans tell comes in beside this, see ``ai_agents.telemetry.stream``.
    """

    _records = True

    def __init__(self, session_id: str | None = None) -> None:
        """Begin a session called *session_id*, by default a fresh UUID."""
        self.session_id = session_id or str(uuid.uuid4())
        self._book = Book(self.session_id, self._collect_environment())
        self._lock = self._book.lock
        self._session = self._book.session
        self._active_tasks = self._book.active_tasks
        self._active_agents = self._book.active_agents
        self._active_tools = self._book.active_tools
        self._task_of_agent: dict[str, str | None] = {}
        self._agent_of_tool: dict[str, str | None] = {}
        self.on_change: Callable[[bool], object] | None = None
        """Called after a change, with True when a task ended; must be quick."""
        self.is_fed_by_spans = False
        """Whether model calls of instrumented libraries come in as spans, and are not to be recorded by hand too."""

    @property
    def book(self) -> Book:
        """The records themselves, for readers and writers inside this package."""
        return self._book

    def start_task(
        self, task_id: str, description: str, sop_category: str | None = None, task_type: str | None = None
    ) -> None:
        """Begin a task; one that is open already goes on. *task_type* is for compatibility and has no effect."""
        del task_type
        if not self._records:
            return
        with self._lock:
            if task_id in self._active_tasks:
                logger.warning("task %s is open already", task_id)
                return
            self._active_tasks[task_id] = TaskExecution(
                task_id,
                shorten(description) or "",
                now(),
                status=TaskStatus.IN_PROGRESS,
                sop_category=sop_category,
            )
        logger.debug("task %s: started", task_id)
        self.changed()

    def end_task(
        self,
        task_id: str,
        status: TaskStatus,
        error_message: str | None = None,
        code_changes: CodeMetrics | None = None,
    ) -> None:
        """End a task; an unknown one is ignored."""
        if not self._records:
            return
        with self._lock:
            task = self._active_tasks.get(task_id)
            if task is None:
                logger.warning("task %s is not open", task_id)
                return
            if code_changes is not None:
                task.code_changes = code_changes
            self._book.close_task(task, status, shorten(error_message))
        logger.debug("task %s: %s", task_id, status)
        self.changed(ended=True)

    def record_llm_call(  # noqa: PLR0913, PLR0917 - a signature that programs use
        self,
        llm_call_or_model: LLMCall | str | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        duration: float | None = None,
        task_id: str | None = None,
        agent_id: str | None = None,
        cost_estimate: float | None = None,
        model: str | None = None,
    ) -> None:
        """Record a model call, given whole or by its parts.

        It goes to the open agent *agent_id*, else to the open task *task_id*, else to the task that was started last,
        else to a task of the session's own: no call is lost. *duration* is in seconds, *cost_estimate* in USD.
        """
        if not self._records:
            return
        if isinstance(llm_call_or_model, LLMCall):
            call = llm_call_or_model
        else:
            prompt, completion, seconds = prompt_tokens or 0, completion_tokens or 0, duration or 0.0
            name = llm_call_or_model or model or "unknown"
            began = now() - timedelta(seconds=_possible(seconds))
            call = LLMCall(name, prompt, completion, prompt + completion, seconds, began, cost_estimate)
        with self._lock:
            agent = self._active_agents.get(agent_id or "")
            self._book.add(call, agent or self._book.task(task_id))
        self.changed()

    def start_agent_execution(
        self, agent_id: str, agent_type: AgentType, agent_name: str, task_id: str | None = None
    ) -> None:
        """Begin the run of an agent; one of this id that is open already goes on."""
        if not self._records:
            return
        kind = as_choice(agent_type, AgentType, AgentType.MICRO)
        agent = AgentExecution(kind, agent_name, now(), status=TaskStatus.IN_PROGRESS)
        with self._lock:
            if agent_id in self._active_agents:
                logger.warning("agent %s is running already", agent_id)
                return
            self._active_agents[agent_id] = agent
            self._task_of_agent[agent_id] = task_id
            self._book.remember_agent(agent_id, agent)
        self.changed()

    def end_agent_execution(
        self, agent_id: str, status: TaskStatus, task_id: str | None = None, error_message: str | None = None
    ) -> None:
        """End the run of an agent and give it to its task; an unknown one is ignored."""
        if not self._records:
            return
        with self._lock:
            agent = self._active_agents.pop(agent_id, None)
            if agent is None:
                logger.warning("agent %s is not running", agent_id)
                return
            begun_in = self._task_of_agent.pop(agent_id, None)
            self._end(agent, status, error_message)
            self._book.add_agent(self._book.task(task_id or begun_in), agent)
        self.changed()

    def record_agent_execution(  # noqa: PLR0913, PLR0917 - a signature that programs use
        self,
        agent_type: str,
        agent_name: str,
        duration: float,
        task_id: str | None = None,
        status: TaskStatus = TaskStatus.COMPLETED,
        llm_calls: list[LLMCall] | None = None,
        tools_used: list[ToolExecution] | None = None,
        error_message: str | None = None,
    ) -> None:
        """Record a run of an agent that is over; it lasted *duration* seconds until now."""
        if not self._records:
            return
        end = now()
        agent = AgentExecution(
            as_choice(agent_type, AgentType, AgentType.MICRO),
            agent_name,
            end - timedelta(seconds=_possible(duration)),
            end,
            duration,
            status,
            list(llm_calls or ()),
            list(tools_used or ()),
            shorten(error_message),
        )
        with self._lock:
            self._book.records += len(agent.llm_calls) + len(agent.tools_used)
            self._book.add_agent(self._book.task(task_id), agent)
        self.changed()

    def start_tool_execution(self, tool_id: str, tool_name: str, agent_id: str | None = None) -> None:
        """Begin the use of a tool."""
        if not self._records:
            return
        with self._lock:
            self._active_tools[tool_id] = ToolExecution(tool_name, now(), status=TaskStatus.IN_PROGRESS)
            self._agent_of_tool[tool_id] = agent_id
        self.changed()

    def end_tool_execution(
        self, tool_id: str, status: TaskStatus, agent_id: str | None = None, error_message: str | None = None
    ) -> None:
        """End the use of a tool and give it to its agent, else to the task; an unknown one is ignored."""
        if not self._records:
            return
        with self._lock:
            tool = self._active_tools.pop(tool_id, None)
            if tool is None:
                logger.warning("tool %s is not running", tool_id)
                return
            self._end(tool, status, error_message)
            self._add_tool(tool, agent_id or self._agent_of_tool.pop(tool_id, None))
        self.changed()

    def record_tool_usage(
        self,
        tool_name: str,
        duration: float,
        agent_id: str | None = None,
        status: TaskStatus = TaskStatus.COMPLETED,
        error_message: str | None = None,
    ) -> None:
        """Record the use of a tool that is over; it took *duration* seconds until now."""
        if not self._records:
            return
        end = now()
        start = end - timedelta(seconds=_possible(duration))
        tool = ToolExecution(tool_name, start, end, duration, status, shorten(error_message))
        with self._lock:
            self._add_tool(tool, agent_id)
        self.changed()

    def record_code_changes(  # noqa: PLR0913, PLR0917 - a signature that programs use
        self,
        task_id: str,
        files_created: int = 0,
        files_modified: int = 0,
        files_deleted: int = 0,
        lines_added: int = 0,
        lines_removed: int = 0,
        lines_modified: int = 0,
    ) -> None:
        """Set what an open task changed in its files; an unknown task is ignored."""
        with self._lock:
            task = self._active_tasks.get(task_id)
            if task is not None:
                task.code_changes = CodeMetrics(
                    files_created, files_modified, files_deleted, lines_added, lines_removed, lines_modified
                )
        self.changed()

    def start_supervisor_task(
        self,
        task_id: str,
        description: str,
        agent_name: str,
        sop_category: str | None = None,
        task_type: str | None = None,
    ) -> str:
        """Begin a task and the run of its supervisor, and return the id of that run."""
        self.start_task(task_id, description, sop_category, task_type)
        agent_id = f"{task_id}_supervisor_{agent_name}"
        self.start_agent_execution(agent_id, AgentType.SUPERVISOR, agent_name, task_id)
        return agent_id

    def end_supervisor_task(
        self, task_id: str, agent_execution_id: str, status: TaskStatus, error_message: str | None = None
    ) -> None:
        """End the run of a supervisor and its task."""
        self.end_agent_execution(agent_execution_id, status, task_id, error_message)
        self.end_task(task_id, status, error_message)

    def get_active_tasks(self) -> dict[str, TaskExecution]:
        """Return the open tasks by id."""
        with self._lock:
            return dict(self._active_tasks)

    def get_active_agents(self) -> dict[str, AgentExecution]:
        """Return the agents that were started by hand and run, by id."""
        with self._lock:
            return dict(self._active_agents)

    def get_active_tools(self) -> dict[str, ToolExecution]:
        """Return the tools that were started by hand and run, by id."""
        with self._lock:
            return dict(self._active_tools)

    def get_session_data(self, *, include_active: bool = False) -> TelemetrySession:
        """Return a copy of the session with its ended tasks, and with *include_active* the open ones too.

        The totals hold everything that was recorded, also what belongs to no task or to one that is open.
        """
        return self._book.copy(include_active=include_active)

    def finalize_session(self) -> TelemetrySession:
        """End the session and return it; what is open ends as PARTIAL. A second call returns the same."""
        session = self._book.finish()
        self.changed(ended=True)
        return session

    def changed(self, *, ended: bool = False) -> None:
        """Tell whoever keeps the session that it changed."""
        if self.on_change is not None:
            self.on_change(ended)

    def _add_tool(self, tool: ToolExecution, agent_id: str | None) -> None:
        agent = self._active_agents.get(agent_id or "")
        self._book.add(tool, agent or self._book.task())

    @staticmethod
    def _end(record: AgentExecution | ToolExecution, status: TaskStatus, error_message: str | None) -> None:
        record.end_time = now()
        record.duration = seconds_between(record.start_time, record.end_time)
        record.status, record.error_message = status, shorten(error_message)

    def _collect_environment(self) -> EnvironmentInfo:
        return read_environment()

    def _find_project_root(self, start: Path) -> str:
        return find_project_root(start)


class NoOpCollector(TelemetryCollector):
    """What takes the collector's place while telemetry is off: it keeps nothing."""

    _records = False

    def __init__(self) -> None:
        """Make it; the environment is not looked at."""
        super().__init__("noop")

    def _collect_environment(self) -> EnvironmentInfo:
        return EnvironmentInfo("", "", "", "", "")


def shorten(text: str | None, limit: int = MAX_TEXT) -> str | None:
    """Return *text* cut to *limit* characters, None as None."""
    if text is None:
        return None
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _possible(seconds: float) -> float:
    """Return a duration that a time can be moved back by."""
    return seconds if 0 <= seconds < 1e9 else 0.0  # noqa: PLR2004 - thirty years; NaN is not below it either
