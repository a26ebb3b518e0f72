"""The contract that every store keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.types.core import (
        Attempt,
        AttemptedRollout,
        AttemptStatus,
        Rollout,
        RolloutConfig,
        RolloutMode,
        RolloutStatus,
        TaskInput,
    )
    from agentlightning.types.query import SpanRow
    from agentlightning.types.record import WriteBatch, WriteResult
    from agentlightning.types.resources import NamedResources, ResourcesUpdate
    from agentlightning.types.tracer import Span


class Unset:
    """Type of ``UNSET``, the default of arguments for which None is a real value."""

    def __repr__(self) -> str:
        """Return ``UNSET``."""
        return "UNSET"

    def __bool__(self) -> bool:
        """Return False."""
        return False


UNSET: Final = Unset()
"""Argument that was not given: leave the field as it is."""


class LightningStore(ABC):
    """Rollouts, their attempts and spans, and resources, for one project.

    All methods but ``write_batch`` are coroutines. An attempt id may be ``latest`` where a method reads or updates.
    Every method may raise ``StoreError``; an unknown id is an ``UnknownIdError``, which is also a ``ValueError``.
    Times are seconds since the epoch.
    """

    project: str
    """Project that new rollouts belong to and that listings show."""

    url: str | None
    """URL under which another process can open the same store, or None."""

    @abstractmethod
    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch of the pipeline in one transaction; durable when it returns. Thread-safe, blocking.

        A span that is stored as ended is never changed, an open one is replaced by its end, so a batch may be
        written again after an error. Spans of unknown rollouts make an implicit one.

        Raises:
            StoreError: Nothing of the batch was written.
        """

    @abstractmethod
    async def start_rollout(
        self,
        input: TaskInput,  # noqa: A002 - a name of the public API
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AttemptedRollout:
        """Create a rollout that is ``preparing``, with its first attempt; it is never in the queue."""

    @abstractmethod
    async def query_rollouts(
        self, *, status: Sequence[RolloutStatus] | None = None, rollout_ids: Sequence[str] | None = None
    ) -> list[Rollout]:
        """Return the project's rollouts, oldest first, of these statuses and ids (None: all)."""

    @abstractmethod
    async def query_newest_rollouts(self, limit: int = 20, offset: int = 0, *, children: bool = False) -> list[Rollout]:
        """Return the project's newest rollouts, newest first; *children* includes those inside another rollout."""

    @abstractmethod
    async def query_child_rollouts(self, rollout_id: str) -> list[Rollout]:
        """Return the rollouts that ran inside *rollout_id*, oldest first."""

    @abstractmethod
    async def find_rollout_id(self, text: str) -> str:
        """Return the id of the rollout that *text* means: ``latest``, an id, or the unique beginning of one.

        Raises:
            UnknownIdError: None or several fit.
        """

    @abstractmethod
    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """Return a rollout, or None when there is none of this id."""

    @abstractmethod
    async def query_attempts(self, rollout_id: str) -> list[Attempt]:
        """Return the attempts of a rollout in their order; none for an unknown rollout."""

    @abstractmethod
    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the latest attempt of a rollout, or None."""

    @abstractmethod
    async def update_rollout(  # noqa: PLR0913, PLR0917 - signature of the public API
        self,
        rollout_id: str,
        input: TaskInput | Unset = UNSET,  # noqa: A002 - a name of the public API
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Rollout:
        """Change the fields that are given and return the rollout; a finished status sets its ``end_time``."""

    @abstractmethod
    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        """Change the fields that are given and return the attempt; the latest one passes its status on."""

    @abstractmethod
    async def add_span(self, span: Span) -> Span:
        """Insert *span* by the key rule and return it as it is stored; it counts as a heartbeat.

        Raises:
            UnknownIdError: No such rollout or attempt.
        """

    @abstractmethod
    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span:
        """Insert a span of the OpenTelemetry SDK; see ``add_span``."""

    @abstractmethod
    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Return a number that is higher than any that was given to a span of this rollout."""

    @abstractmethod
    async def query_spans(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = False
    ) -> list[Span]:
        """Return the spans of a rollout ordered by ``sequence_id``, open ones (0) only when asked for."""

    @abstractmethod
    async def query_span_rows(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = True
    ) -> list[SpanRow]:
        """Return the shape of a rollout without payloads, ordered like ``query_spans``."""

    @abstractmethod
    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """Store an immutable snapshot of resources and mark it as the latest."""

    @abstractmethod
    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Store new resources under an existing id and mark it as the latest."""

    @abstractmethod
    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Return a snapshot, or None."""

    @abstractmethod
    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Return the project's latest snapshot, or None."""

    def after_fork(self) -> None:  # noqa: B027 - most stores have nothing to do
        """Make the store usable in a forked child; called there before anything else."""

    @abstractmethod
    def close(self) -> None:
        """Give up files and connections; a later call opens them again. Thread-safe, a second call does nothing."""
