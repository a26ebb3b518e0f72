"""Rollouts, attempts, tasks and what a training loop passes around.

A *rollout* is one task that an agent works on; an *attempt* is one try at it. Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentlightning.types.record import Metadata

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from typing_extensions import Self

    from agentlightning.types.tracer import Span

__all__ = [
    "Attempt",
    "AttemptStatus",
    "AttemptedRollout",
    "Dataset",
    "GenericResponse",
    "Hook",
    "ParallelWorkerBase",
    "Rollout",
    "RolloutConfig",
    "RolloutMode",
    "RolloutRawResult",
    "RolloutStatus",
    "Task",
    "TaskIfAny",
    "TaskInput",
    "Triplet",
]

T_co = TypeVar("T_co", covariant=True)

RolloutStatus = Literal["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
"""``queuing`` → ``preparing`` (claimed) → ``running`` → one of the three ends; ``requeuing`` before a retry."""

AttemptStatus = Literal["preparing", "running", "failed", "succeeded", "unresponsive", "timeout"]
"""``preparing`` → ``running`` → an end; an ``unresponsive`` attempt that sends a span is ``running`` again."""

RolloutMode = Literal["train", "val", "test"]
"""What the result of a rollout is used for."""

TaskInput = Any
"""What an agent gets to work on; whatever JSON can hold."""

RolloutRawResult = Union[None, float, list["ReadableSpan"], list["Span"]]  # noqa: UP007 - | takes no forward names
"""What an agent returns: nothing (the trace says it all), the final reward, or its spans."""


class Triplet(BaseModel):
    """One model call as training data: what went in, what came out, what it was worth."""

    prompt: Any
    response: Any
    reward: float | None = None
    metadata: Metadata = Field(default_factory=dict)


class Attempt(BaseModel):
    """One try at a rollout."""

    model_config = ConfigDict(validate_assignment=True)

    rollout_id: str
    attempt_id: str
    sequence_id: int
    """Number of the attempt within its rollout, from 1."""
    start_time: float
    end_time: float | None = None
    status: AttemptStatus = "preparing"
    worker_id: str | None = None
    last_heartbeat_time: float | None = None
    """When the attempt last gave a sign of life: a span or an update."""
    metadata: Metadata | None = None


class RolloutConfig(BaseModel):
    """When an attempt counts as lost, and what happens then."""

    timeout_seconds: float | None = Field(default=None, ge=0)
    """Longest time from the start of an attempt; None: no bound."""
    unresponsive_seconds: float | None = Field(default=None, ge=0)
    """Longest time without a heartbeat; None: no bound."""
    max_attempts: int = Field(default=1, ge=1)
    retry_condition: list[AttemptStatus] = Field(default_factory=list["AttemptStatus"])
    """Statuses of an attempt after which the rollout is tried again, up to ``max_attempts``."""


class Rollout(BaseModel):
    """One task and how it goes."""

    model_config = ConfigDict(validate_assignment=True)

    rollout_id: str
    input: TaskInput
    start_time: float
    end_time: float | None = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    status: RolloutStatus = "queuing"
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    metadata: Metadata | None = None

    @property
    def id(self) -> str:
        """The rollout's id, the same as ``rollout_id``."""
        return self.rollout_id


class AttemptedRollout(Rollout):
    """A rollout together with one of its attempts."""

    attempt: Attempt

    @model_validator(mode="after")
    def check_consistency(self) -> Self:
        """Refuse an attempt of another rollout.

        Raises:
            ValueError: The ids differ; pydantic makes it a ``ValidationError``.
        """
        if self.attempt.rollout_id != self.rollout_id:
            msg = f"attempt {self.attempt.attempt_id} belongs to {self.attempt.rollout_id}, not to {self.rollout_id}"
            raise ValueError(msg)
        return self


class Task(BaseModel):
    """A task as an agent's hooks see it."""

    rollout_id: str
    input: TaskInput
    mode: RolloutMode | None = None
    resources_id: str | None = None
    create_time: float | None = None
    last_claim_time: float | None = None
    num_claims: int | None = None
    metadata: Metadata = Field(default_factory=dict)


class TaskIfAny(BaseModel):
    """A task, or word that there is none."""

    is_available: bool
    task: Task | None = None


class GenericResponse(BaseModel):
    """An answer that says how a request went."""

    status: str = "success"
    message: str | None = None
    data: dict[str, Any] | None = None


class Dataset(Protocol, Generic[T_co]):
    """Anything with a length and tasks by index: a list, or a dataset of a training library."""

    def __getitem__(self, index: int, /) -> T_co:
        """Return the task at *index*, from 0."""
        ...

    def __len__(self) -> int:
        """Return how many tasks there are."""
        ...


class ParallelWorkerBase:
    """Life cycle of whatever runs in several workers.

    ``init`` and ``teardown`` run once in the main process, ``init_worker`` and ``teardown_worker`` once in each
    worker. A subclass that overrides one calls ``super()``.
    """

    def __init__(self) -> None:
        """Start outside any worker."""
        self.worker_id: int | None = None
        """Number of the worker, from 0; None outside one."""

    def init(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - each subclass has its own
        """Prepare in the main process."""

    def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Prepare in worker *worker_id*."""
        self.worker_id = worker_id

    def run(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Work; does nothing here."""

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Clean up in worker *worker_id*."""
        self.worker_id = None

    def teardown(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Clean up in the main process."""


class Hook(ParallelWorkerBase):
    """Callbacks around a rollout; override what you need.

    They run in the order ``on_rollout_start``, ``on_trace_start``, ``on_trace_end``, ``on_rollout_end``, each on its
    own: one that raises is logged and the rollout goes on. *agent* is the ``LitAgent``, *runner* the ``Runner`` and
    *tracer* the ``Tracer`` at work; an override may say so in its annotations, hence ``Any`` here.
    """

    async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: Rollout) -> None:  # noqa: ANN401
        """Run before anything of the rollout is traced."""

    async def on_trace_start(self, *, agent: Any, runner: Any, tracer: Any, rollout: Rollout) -> None:  # noqa: ANN401
        """Run inside the trace, before the agent."""

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: Rollout) -> None:  # noqa: ANN401
        """Run inside the trace, after the agent."""

    async def on_rollout_end(
        self,
        *,
        agent: Any,  # noqa: ANN401
        runner: Any,  # noqa: ANN401
        rollout: Rollout,
        spans: list[ReadableSpan] | list[Span],
    ) -> None:
        """Run when the trace is closed; *spans* are the rollout's, in order."""
