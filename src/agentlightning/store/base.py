"""The contract that every store keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from agentlightning.store.lifecycle import FINISHED, QUEUEING
from agentlightning.store.readable import span_of_readable
from agentlightning.store.request import UNSET, AttemptChange, NewRollouts, RolloutChange, Unset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from typing_extensions import Self

    from agentlightning.types.change import ChangeCursor, Changes
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
    from agentlightning.types.query import RolloutFilter, SpanRow, StoreStatistics
    from agentlightning.types.record import Metadata, WriteBatch, WriteResult
    from agentlightning.types.resources import NamedResources, ResourcesUpdate
    from agentlightning.types.tracer import Span


DEFAULT_POLL_S: Final = 0.5
"""Longest time after which a waiter looks at the store again: attempts become overdue without anybody writing."""


def is_queuing(rollout: Rollout) -> bool:
    """Tell whether *rollout* waits in the queue."""
    return rollout.status in QUEUEING


def is_running(rollout: Rollout) -> bool:
    """Tell whether an attempt of *rollout* is claimed or at work."""
    return rollout.status in {"preparing", "running"}


def is_finished(rollout: Rollout) -> bool:
    """Tell whether *rollout* came to one of its three ends."""
    return rollout.status in FINISHED


class LightningStore(ABC):
    """Rollouts, their attempts and spans, and resources, for one project.

    All methods but ``write_batch`` are coroutines. An attempt id may be ``latest`` where a method reads or updates.
    Every method may raise ``StoreError``; an unknown id is an ``UnknownIdError``, a status that cannot follow the one
    that is there a ``TransitionError``; both are a ``ValueError`` too. Times are seconds since the epoch.

    Methods that create something take an id for it, made by the caller and never used before; without one the store
    makes it. A call with an id that is there already changes nothing and returns what is there, so a caller who does
    not know whether a call arrived repeats it with the same id. An id that another project uses is an ``AccessError``.

    Some methods only pack their arguments (``store.request``) or ask for one of what others do for many: a store
    implements the abstract ones.

    Before it reads or writes, every method looks for attempts that are overdue: longer than ``timeout_seconds`` since
    their start, or longer than ``unresponsive_seconds`` or the lease of their claim without a heartbeat.
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

    async def start_rollout(
        self,
        input: TaskInput,  # noqa: A002 - a name of the public API
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: Metadata | None = None,
        *,
        rollout_id: str | None = None,
    ) -> AttemptedRollout:
        """Create a rollout that is ``preparing``, with its first attempt; it is never in the queue.

        Without *resources_id* it gets the project's latest resources. *rollout_id*: see the class.
        """
        ids = None if rollout_id is None else [rollout_id]
        return await self.add_started(NewRollouts([input], mode, resources_id, config, metadata, ids))

    @abstractmethod
    async def add_started(self, new: NewRollouts) -> AttemptedRollout:
        """Keep the promise of ``start_rollout``; *new* has one input."""

    async def enqueue_rollout(
        self,
        input: TaskInput,  # noqa: A002 - a name of the public API
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: Metadata | None = None,
        *,
        rollout_id: str | None = None,
    ) -> Rollout:
        """Put a new rollout at the end of the project's queue; arguments as in ``start_rollout``."""
        ids = None if rollout_id is None else [rollout_id]
        return (await self.enqueue_rollouts([input], mode, resources_id, config, metadata, rollout_ids=ids))[0]

    async def enqueue_rollouts(
        self,
        inputs: Sequence[TaskInput],
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: Metadata | None = None,
        *,
        rollout_ids: Sequence[str] | None = None,
    ) -> list[Rollout]:
        """Put a rollout for each input at the end of the queue, in their order; after an error, none of them.

        Raises:
            ValueError: *rollout_ids* are not as many as *inputs*, or not all different.
        """
        return await self.add_queued(NewRollouts(inputs, mode, resources_id, config, metadata, rollout_ids))

    @abstractmethod
    async def add_queued(self, new: NewRollouts) -> list[Rollout]:
        """Keep the promise of ``enqueue_rollouts``."""

    @abstractmethod
    async def dequeue_rollout(
        self, *, worker_id: str | None = None, lease_s: float | None = None, attempt_id: str | None = None
    ) -> AttemptedRollout | None:
        """Claim the oldest rollout of the queue with a new attempt, ``preparing``; None when the queue is empty.

        No two callers get the same attempt.

        Args:
            attempt_id: Id of the attempt, see the class. An attempt that is over by now is None, not a claim.
            worker_id: Who claims it.
            lease_s: Longest time without a span or ``heartbeat``; afterwards the attempt is ``unresponsive``, and
                the rollout goes on as its configuration says. None: only the configuration decides.
        """

    @abstractmethod
    async def start_attempt(self, rollout_id: str, *, attempt_id: str | None = None) -> AttemptedRollout:
        """Make a further attempt, whatever ``max_attempts`` says; the rollout leaves the queue and is ``preparing``.

        *attempt_id*: see the class.

        Raises:
            UnknownIdError: No such rollout.
        """

    @abstractmethod
    async def heartbeat(self, rollout_id: str, attempt_id: str) -> Attempt:
        """Note that an attempt is alive, which renews its lease; it counts like a span.

        Raises:
            StaleAttemptError: A later attempt exists: the worker should stop.
            UnknownIdError: No such rollout or attempt.
        """

    @abstractmethod
    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        """Wait until all these rollouts are finished and return those that are, in the order of *rollout_ids*.

        Args:
            rollout_ids: Ids; unknown ones are ignored.
            timeout: Longest wait in seconds; 0 or less does not wait, None waits for ever.
        """

    @abstractmethod
    async def query_rollouts(
        self,
        *,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        where: RolloutFilter | None = None,
    ) -> list[Rollout]:
        """Return the project's rollouts, oldest first, of these statuses and ids (None: all), narrowed by *where*."""

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

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the latest attempt of a rollout, or None."""
        attempts = await self.query_attempts(rollout_id)
        return attempts[-1] if attempts else None

    async def update_rollout(  # noqa: PLR0913, PLR0917 - signature of the public API
        self,
        rollout_id: str,
        input: TaskInput | Unset = UNSET,  # noqa: A002 - a name of the public API
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: Metadata | Unset | None = UNSET,
    ) -> Rollout:
        """Change the fields that are given and return the rollout.

        A finished status sets ``end_time`` and wakes who waits, a queueing one puts it at the end of the queue unless
        it is there already, every other one takes it out.

        Raises:
            UnknownIdError: No such rollout.
            TransitionError: It is finished and would get another status than a queueing one.
        """
        change = RolloutChange(input, mode, resources_id, status, config, metadata)
        return await self.change_rollout(rollout_id, change)

    @abstractmethod
    async def change_rollout(self, rollout_id: str, change: RolloutChange) -> Rollout:
        """Keep the promise of ``update_rollout``."""

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: Metadata | Unset | None = UNSET,
    ) -> Attempt:
        """Change the fields that are given and return the attempt.

        The latest attempt passes its status on: ``preparing``, ``running`` and ``succeeded`` as they are; ``failed``,
        ``timeout`` and ``unresponsive`` queue the rollout again when its configuration says so and attempts are left,
        else it is ``failed``. A status that the attempt has already changes nothing.

        Raises:
            UnknownIdError: No such rollout or attempt.
            StaleAttemptError: A status for an attempt that was followed by another.
            TransitionError: Another status for an attempt that is over.
        """
        change = AttemptChange(status, worker_id, last_heartbeat_time, metadata)
        return await self.change_attempt(rollout_id, attempt_id, change)

    @abstractmethod
    async def change_attempt(self, rollout_id: str, attempt_id: str, change: AttemptChange) -> Attempt:
        """Keep the promise of ``update_attempt``."""

    async def add_span(self, span: Span) -> Span:
        """Insert *span* by the key rule and return it as it is stored; it counts as a heartbeat.

        The key is ``(trace_id, span_id)``: absent, it is inserted; open, replaced by its end; ended, never changed.
        Its ``sequence_id`` is kept when it is 1 or more, and raises the rollout's counter; 0 takes the next number.

        Raises:
            UnknownIdError: No such rollout or attempt.
        """
        return (await self.add_spans([span]))[0]

    @abstractmethod
    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Insert spans as ``add_span`` does, in one transaction, and return them as they are stored, in their order."""

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span:
        """Insert a span of the OpenTelemetry SDK; see ``add_span``."""
        return await self.add_span(span_of_readable(rollout_id, attempt_id, readable_span, sequence_id or 0))

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
    async def query_spans_by_key(self, keys: Sequence[tuple[str, str]]) -> list[Span]:
        """Return the spans with these trace and span ids in full, in the order of *keys*; unknown ones are left out."""

    @abstractmethod
    async def query_changes(self, after: ChangeCursor | None = None, *, wait_s: float = 0.0) -> Changes:
        """Return what happened in the project since *after*, whichever process wrote it, and where to go on.

        Cheap when nothing happened. A span is reported when it is first seen, open or ended, and once more when it has
        ended; what is deleted is not reported. Nothing that is written is missed, also when rollouts are deleted or the
        store is compacted meanwhile; after such a deletion a span may be reported once more.

        Args:
            after: Cursor of the call before; None for the present: the rollouts that are not finished and their open
                spans, as of this moment; ``types.change.BEGINNING`` for all that is stored.
            wait_s: How long to wait for something to happen when nothing has; costs next to nothing meanwhile. A
                server may answer earlier.
        """

    @abstractmethod
    async def add_resources(self, resources: NamedResources, *, resources_id: str | None = None) -> ResourcesUpdate:
        """Store an immutable snapshot of resources and mark it as the latest; *resources_id*: see the class."""

    @abstractmethod
    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Store new resources under an existing id and mark it as the latest."""

    @abstractmethod
    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Return a snapshot, or None."""

    @abstractmethod
    async def get_latest_resources(self, name: str | None = None) -> ResourcesUpdate | None:
        """Return the project's latest snapshot, or the latest that holds a resource called *name*; None without one."""

    @abstractmethod
    async def find_attempt_of_trace(self, trace_id: str) -> tuple[str, str] | None:
        """Return rollout and attempt id of the newest attempt with a span of this trace, or None."""

    @abstractmethod
    async def delete_rollouts(self, rollout_ids: Sequence[str]) -> int:
        """Delete rollouts with their attempts, spans and the rollouts inside them; return how many rollouts went.

        Unknown ids are ignored. A worker that still sends spans of one makes an implicit rollout of the same id.
        """

    @abstractmethod
    async def prune(self, *, before: float | None = None, keep: int | None = None) -> int:
        """Delete what retention no longer wants of the project and return how many rollouts went.

        Rollouts that wait or that gave a sign of life within the last day stay unless they are finished.

        Args:
            before: Only rollouts whose last sign of life is older than this time.
            keep: The newest so many top-level rollouts stay in any case.
        """

    @abstractmethod
    async def statistics(self) -> StoreStatistics:
        """Count what the store holds; takes a second for some ten million spans."""

    @abstractmethod
    def with_project(self, project: str) -> Self:
        """Return a handle on the same store for *project*; closing one closes both."""

    def after_fork(self) -> None:  # noqa: B027 - most stores have nothing to do
        """Make the store usable in a forked child; called there before anything else."""

    @abstractmethod
    def close(self) -> object:
        """Give up files and connections; a later call opens them again. Thread-safe, a second call does nothing."""
