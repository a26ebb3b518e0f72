"""What a session is made of: plain data classes with ``to_dict`` and ``from_dict``, and the names of their states.

A session holds times, counts and statuses, never what a model or a tool said. ``from_dict`` takes files of older and
newer releases: unknown keys are ignored, and what is missing has its default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - type of fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ai_agents.telemetry.loose import (
    as_choice,
    as_count,
    as_list,
    as_map,
    as_number,
    as_text,
    as_time,
    optional_text,
    optional_time,
    seconds_between,
)
from ai_agents.telemetry.value import CodeMetrics, EnvironmentInfo, JsonObject, JsonRecord, TokenUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from agentlightning.types.query import SpanFacts

SCHEMA_VERSION = 1
"""Version of the file's shape; it rises when a reader has to know."""


class TaskStatus(Enum):
    """State of a task, an agent's run or a use of a tool."""

    NOT_STARTED = "not_started"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PARTIAL = "partial"
    """It came to no end of its own: stopped by a limit, by the end of the session or of the process."""


class AgentType(Enum):
    """Kind of an agent."""

    SUPERVISOR = "supervisor"
    MICRO = "micro"
    TOOL_CALLING = "tool_calling"
    CODE = "code"
    MANAGED = "managed"


@dataclass
class LLMCall(JsonRecord):
    """One call of a model."""

    model: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    duration: float
    """Seconds."""
    timestamp: datetime
    """When it began."""
    cost_estimate: float | None = None
    """USD, None where it is not known."""
    cached_tokens: int = 0
    """Part of the prompt that was read from the provider's cache."""
    failed: bool = False
    usage_missing: bool = False
    """The provider reported no tokens; the counts are 0 for want of better ones."""
    facts: SpanFacts | None = field(default=None, repr=False, compare=False)
    """What the price depends on; stays in memory."""

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        data = {key: value for key, value in vars(self).items() if key != "facts"}
        return {**data, "timestamp": self.timestamp.isoformat()}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        return cls(
            as_text(data.get("model")),
            as_count(data.get("prompt_tokens")),
            as_count(data.get("completion_tokens")),
            as_count(data.get("total_tokens")),
            as_number(data.get("duration")) or 0.0,
            as_time(data.get("timestamp")),
            as_number(data.get("cost_estimate")),
            as_count(data.get("cached_tokens")),
            data.get("failed") is True,
            data.get("usage_missing") is True,
        )


@dataclass
class ToolExecution(JsonRecord):
    """One use of a tool."""

    tool_name: str
    start_time: datetime
    end_time: datetime | None = None
    duration: float | None = None
    """Seconds; None while it runs."""
    status: TaskStatus = TaskStatus.NOT_STARTED
    error_message: str | None = None
    is_final_answer: bool = False
    """It is the tool by which an agent of smolagents gives its answer."""
    result_chars: int | None = None
    """Size of the result, as text."""
    arguments_key: str | None = None
    """The same for two uses with the same arguments, and nothing else can be told from it."""

    def __post_init__(self) -> None:
        """Fill in the duration where both times are known."""
        if self.duration is None and self.end_time is not None:
            self.duration = seconds_between(self.start_time, self.end_time)

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        return {**vars(self), **_times(self), "status": self.status.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        chars = as_number(data.get("result_chars"))
        return cls(
            as_text(data.get("tool_name")),
            as_time(data.get("start_time")),
            optional_time(data.get("end_time")),
            as_number(data.get("duration")),
            as_choice(data.get("status"), TaskStatus, TaskStatus.NOT_STARTED),
            optional_text(data.get("error_message")),
            data.get("is_final_answer") is True,
            None if chars is None else int(chars),
            optional_text(data.get("arguments_key")),
        )


@dataclass
class AgentExecution(JsonRecord):
    """One run of an agent."""

    agent_type: AgentType
    agent_name: str
    start_time: datetime
    end_time: datetime | None = None
    duration: float | None = None
    """Seconds; None while it runs."""
    status: TaskStatus = TaskStatus.NOT_STARTED
    llm_calls: list[LLMCall] = field(default_factory=list["LLMCall"])
    tools_used: list[ToolExecution] = field(default_factory=list["ToolExecution"])
    error_message: str | None = None
    planning_steps: int = 0

    def __post_init__(self) -> None:
        """Fill in the duration where both times are known."""
        if self.duration is None and self.end_time is not None:
            self.duration = seconds_between(self.start_time, self.end_time)

    def get_total_tokens(self) -> TokenUsage:
        """Return the sum over this agent's own calls; agents that it managed have records of their own."""
        return _sum_calls(self.llm_calls)

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        return {
            **vars(self),
            **_times(self),
            "agent_type": self.agent_type.value,
            "status": self.status.value,
            "llm_calls": [call.to_dict() for call in self.llm_calls],
            "tools_used": [tool.to_dict() for tool in self.tools_used],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        return cls(
            as_choice(data.get("agent_type"), AgentType, AgentType.MICRO),
            as_text(data.get("agent_name")),
            as_time(data.get("start_time")),
            optional_time(data.get("end_time")),
            as_number(data.get("duration")),
            as_choice(data.get("status"), TaskStatus, TaskStatus.NOT_STARTED),
            as_list(data.get("llm_calls"), LLMCall.from_dict),
            as_list(data.get("tools_used"), ToolExecution.from_dict),
            optional_text(data.get("error_message")),
            as_count(data.get("planning_steps")),
        )


@dataclass
class TaskExecution(JsonRecord):
    """One task: what was asked for, and everything that was done for it."""

    task_id: str
    description: str
    start_time: datetime
    end_time: datetime | None = None
    status: TaskStatus = TaskStatus.NOT_STARTED
    sop_category: str | None = None
    agents: list[AgentExecution] = field(default_factory=list["AgentExecution"])
    tools: list[ToolExecution] = field(default_factory=list["ToolExecution"])
    llm_calls: list[LLMCall] = field(default_factory=list["LLMCall"])
    code_changes: CodeMetrics = field(default_factory=CodeMetrics)
    error_message: str | None = None
    archived_records: int = 0
    """Calls and uses of tools that are no longer in the lists, as the session is too long; the sums have them."""
    archived_tokens: TokenUsage = field(default_factory=TokenUsage)
    archived_agents: int = 0
    """Runs of agents that are no longer in the list, with everything in them."""

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None while the task is open."""
        return None if self.end_time is None else seconds_between(self.start_time, self.end_time)

    def get_total_tokens(self) -> TokenUsage:
        """Return the sum over the task's own calls and those of its agents, by model and with their cost."""
        usage = _sum_calls(self.llm_calls)
        for agent in self.agents:
            usage.add_usage(agent.get_total_tokens())
        usage.add_usage(self.archived_tokens)
        return usage

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        data = {
            **vars(self),
            **_times(self),
            "duration": self.duration,
            "status": self.status.value,
            "agents": [agent.to_dict() for agent in self.agents],
            "tools": [tool.to_dict() for tool in self.tools],
            "llm_calls": [call.to_dict() for call in self.llm_calls],
            "code_changes": self.code_changes.to_dict(),
        }
        if not (self.archived_records or self.archived_agents):
            del data["archived_tokens"], data["archived_records"], data["archived_agents"]
        else:
            data["archived_tokens"] = self.archived_tokens.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        return cls(
            as_text(data.get("task_id")),
            as_text(data.get("description")),
            as_time(data.get("start_time")),
            optional_time(data.get("end_time")),
            as_choice(data.get("status"), TaskStatus, TaskStatus.NOT_STARTED),
            optional_text(data.get("sop_category")),
            as_list(data.get("agents"), AgentExecution.from_dict),
            as_list(data.get("tools"), ToolExecution.from_dict),
            as_list(data.get("llm_calls"), LLMCall.from_dict),
            CodeMetrics.from_dict(as_map(data.get("code_changes"))),
            optional_text(data.get("error_message")),
            as_count(data.get("archived_records")),
            TokenUsage.from_dict(as_map(data.get("archived_tokens"))),
            as_count(data.get("archived_agents")),
        )


@dataclass
class TelemetrySession(JsonRecord):
    """Everything from the first task of a process to its end."""

    session_id: str
    start_time: datetime
    end_time: datetime | None = None
    environment: EnvironmentInfo = field(default_factory=lambda: EnvironmentInfo("", "", "", "", ""))
    tasks: list[TaskExecution] = field(default_factory=list["TaskExecution"])
    total_tokens: TokenUsage = field(default_factory=TokenUsage)
    total_duration: float = 0.0
    """Seconds in which at least one task ran; ``add_task`` adds up instead."""
    process: str = field(default="", compare=False)
    """Process that records the session; empty where that is of no interest."""
    archived_tasks: int = 0
    """Tasks that are no longer in the list, as the session is too long; the totals have them."""
    archived_tokens: TokenUsage = field(default_factory=TokenUsage)
    archived_duration: float = 0.0
    archived_until: datetime | None = None
    """End of the last archived task: the time before it is in ``archived_duration``."""

    def add_task(self, task: TaskExecution) -> None:
        """Append *task* and add its tokens and its duration to the totals."""
        self.tasks.append(task)
        self.total_tokens.add_usage(task.get_total_tokens())
        self.total_duration += task.duration or 0.0

    def get_session_duration(self) -> float | None:
        """Return the seconds from start to end; None while the session is open."""
        return None if self.end_time is None else seconds_between(self.start_time, self.end_time)

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        data: JsonObject = {
            "schema_version": SCHEMA_VERSION,
            "session_id": self.session_id,
            **_times(self),
            "session_duration": self.get_session_duration(),
            "process": self.process,
            "environment": self.environment.to_dict(),
            "tasks": [task.to_dict() for task in self.tasks],
            "total_tokens": self.total_tokens.to_dict(),
            "total_duration": self.total_duration,
        }
        if self.archived_tasks:
            until = self.archived_until
            data |= {
                "archived_tasks": self.archived_tasks,
                "archived_tokens": self.archived_tokens.to_dict(),
                "archived_duration": self.archived_duration,
                "archived_until": None if until is None else until.isoformat(),
            }
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        return cls(
            as_text(data.get("session_id")),
            as_time(data.get("start_time")),
            optional_time(data.get("end_time")),
            EnvironmentInfo.from_dict(as_map(data.get("environment"))),
            as_list(data.get("tasks"), TaskExecution.from_dict),
            TokenUsage.from_dict(as_map(data.get("total_tokens"))),
            as_number(data.get("total_duration")) or 0.0,
            as_text(data.get("process")),
            as_count(data.get("archived_tasks")),
            TokenUsage.from_dict(as_map(data.get("archived_tokens"))),
            as_number(data.get("archived_duration")) or 0.0,
            optional_time(data.get("archived_until")),
        )

    def save_to_file(self, path: str | Path) -> None:
        """Write the session as JSON, making the folders above; for a durable file see ``TelemetryDataStore``."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load_from_file(cls, path: str | Path) -> TelemetrySession:
        """Read what ``save_to_file`` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def serialize_telemetry_data(obj: object) -> str:
    """Return JSON text of a session, task, agent or other record, or of plain data."""
    to_dict: object = getattr(obj, "to_dict", None)
    return json.dumps(to_dict() if callable(to_dict) else obj, indent=2, default=str, ensure_ascii=False)


def deserialize_telemetry_data(text: str, data_type: str) -> TelemetrySession | TaskExecution | AgentExecution:
    """Return the record in *text*; *data_type* is ``session``, ``task`` or ``agent``.

    Raises:
        ValueError: Another *data_type*, or *text* is no JSON.
    """
    kinds = {"session": TelemetrySession, "task": TaskExecution, "agent": AgentExecution}
    if data_type not in kinds:
        msg = f"Unknown data type: {data_type}"
        raise ValueError(msg)
    return kinds[data_type].from_dict(as_map(json.loads(text)))


def _sum_calls(calls: list[LLMCall]) -> TokenUsage:
    usage = TokenUsage()
    for call in calls:
        usage.add_call(call)
    return usage


def _times(record: ToolExecution | AgentExecution | TaskExecution | TelemetrySession) -> dict[str, str | None]:
    return {
        "start_time": record.start_time.isoformat(),
        "end_time": None if record.end_time is None else record.end_time.isoformat(),
    }
