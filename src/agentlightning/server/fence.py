"""A store of which only one project can be seen and changed: what a token that is bound to a project reaches.

Ids are known to a whole store. What belongs to another project is treated as if it did not exist where it would be
read, and refused where it would be changed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning.errors import AccessError, UnknownIdError
from agentlightning.store.base import UNSET, LightningStore, Unset
from agentlightning.store.forward import ForwardingStore
from agentlightning.store.pack import to_json
from agentlightning.store.readable import span_of_readable
from agentlightning.store.sql.manager import SqlLightningStore
from agentlightning.types.change import Changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.types.change import ChangeCursor
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
    from agentlightning.types.query import SpanRow, StoreStatistics
    from agentlightning.types.record import SpanRecord, WriteBatch, WriteResult
    from agentlightning.types.resources import NamedResources, ResourcesUpdate
    from agentlightning.types.tracer import Span

T = TypeVar("T")


class FencedStore(ForwardingStore):
    """One project of a store, with nothing of the others. Thread-safe; does not own the store behind it."""

    def __init__(self, store: LightningStore, project: str) -> None:
        """Show *project* of *store*.

        Raises:
            AccessError: The store cannot keep projects apart.
        """
        if not isinstance(store, SqlLightningStore):
            msg = "this store cannot keep projects apart: it takes only tokens that are not bound to a project"
            raise AccessError(msg)
        self._store = store.with_project(project)
        self.project = project
        self.url = store.url

    async def forward(self, call: Callable[[LightningStore], Awaitable[T]]) -> T:
        """Call the store behind; see ``ForwardingStore``."""
        return await call(self._store)

    def with_project(self, project: str) -> FencedStore:
        """Return this handle for its own project.

        Raises:
            AccessError: It is another one.
        """
        if project != self.project:
            msg = f"this token is bound to project {self.project!r}"
            raise AccessError(msg)
        return self

    def close(self) -> None:
        """Do nothing: the store belongs to whoever opened it."""

    def foreign(self, kind: str, ids: Collection[object]) -> set[str]:
        """Return those of *ids* that belong to another project; *kind*: rollouts, attempts, spans or resources."""
        if not ids:
            return set()
        with self._store.connector.read() as transaction:
            return {row[0] for row in transaction.fetch(f"foreign_{kind}", (to_json(list(ids)), self.project))}

    def _refuse(self, kind: str, ids: Collection[object]) -> None:
        if self.foreign(kind, ids):
            msg = f"some of these {kind} belong to another project than {self.project!r}, to which this token is bound"
            raise AccessError(msg)

    async def _hides(self, rollout_id: str) -> bool:
        return bool(await asyncio.to_thread(self.foreign, "rollouts", [rollout_id]))

    async def _known(self, rollout_id: str) -> str:
        if await self._hides(rollout_id):
            msg = f"there is no rollout {rollout_id!r}"
            raise UnknownIdError(msg)
        return rollout_id

    async def _own(self, rollout_ids: Sequence[str]) -> list[str]:
        foreign = await asyncio.to_thread(self.foreign, "rollouts", rollout_ids)
        return [rollout_id for rollout_id in rollout_ids if rollout_id not in foreign]

    # --- what is written ---

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch; see ``LightningStore``.

        Raises:
            AccessError: Something of it belongs to another project; nothing was written.
        """
        if any(start.project != self.project for start in batch.starts) or batch.project != self.project:
            msg = f"this token is bound to project {self.project!r}"
            raise AccessError(msg)
        everything = (*batch.starts, *batch.spans, *batch.ends)
        parents = {str(start.metadata.get("parent_rollout_id")) for start in batch.starts}
        self._refuse("rollouts", {item.rollout_id for item in everything} | parents)
        self._refuse("attempts", {item.attempt_id for item in everything})
        self._refuse("spans", [(span.trace_id, span.span_id) for span in batch.spans])
        return self._store.write_batch(batch)

    def without_foreign(self, records: list[SpanRecord]) -> list[SpanRecord]:
        """Return those of *records* that ``write_batch`` takes."""
        rollouts = self.foreign("rollouts", {record.rollout_id for record in records})
        attempts = self.foreign("attempts", {record.attempt_id for record in records})
        spans = self.foreign("spans", [(record.trace_id, record.span_id) for record in records])
        return [
            record
            for record in records
            if record.rollout_id not in rollouts and record.attempt_id not in attempts and record.span_id not in spans
        ]

    async def add_span(self, span: Span) -> Span:
        """Insert a span; see ``LightningStore``."""
        return (await self.add_spans([span]))[0]

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Insert spans; see ``LightningStore``."""
        await asyncio.to_thread(self._refuse, "rollouts", {span.rollout_id for span in spans})
        await asyncio.to_thread(self._refuse, "spans", [(span.trace_id, span.span_id) for span in spans])
        return await self._store.add_spans(spans)

    async def start_rollout(
        self,
        input: TaskInput,  # noqa: A002 - a name of the public API
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        rollout_id: str | None = None,
    ) -> AttemptedRollout:
        """Create a rollout; see ``LightningStore``."""
        await self._check_new(metadata, resources_id)
        return await self._store.start_rollout(input, mode, resources_id, config, metadata, rollout_id=rollout_id)

    async def enqueue_rollout(
        self,
        input: TaskInput,  # noqa: A002 - a name of the public API
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        rollout_id: str | None = None,
    ) -> Rollout:
        """Put a rollout into the queue; see ``LightningStore``."""
        ids = None if rollout_id is None else [rollout_id]
        return (await self.enqueue_rollouts([input], mode, resources_id, config, metadata, rollout_ids=ids))[0]

    async def enqueue_rollouts(
        self,
        inputs: Sequence[TaskInput],
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        rollout_ids: Sequence[str] | None = None,
    ) -> list[Rollout]:
        """Put rollouts into the queue; see ``LightningStore``."""
        await self._check_new(metadata, resources_id)
        return await self._store.enqueue_rollouts(inputs, mode, resources_id, config, metadata, rollout_ids=rollout_ids)

    async def _check_new(self, metadata: dict[str, Any] | None, resources_id: str | None) -> None:
        await asyncio.to_thread(self._refuse, "rollouts", [str((metadata or {}).get("parent_rollout_id"))])
        await asyncio.to_thread(self._refuse, "resources", [resources_id or ""])

    async def start_attempt(self, rollout_id: str, *, attempt_id: str | None = None) -> AttemptedRollout:
        """Make a further attempt; see ``LightningStore``."""
        return await self._store.start_attempt(await self._known(rollout_id), attempt_id=attempt_id)

    async def heartbeat(self, rollout_id: str, attempt_id: str) -> Attempt:
        """Note that an attempt is alive; see ``LightningStore``."""
        return await self._store.heartbeat(await self._known(rollout_id), attempt_id)

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
        """Change a rollout; see ``LightningStore``."""
        given = None if isinstance(resources_id, Unset) else resources_id
        await self._check_new(None if isinstance(metadata, Unset) else metadata, given)
        known = await self._known(rollout_id)
        return await self._store.update_rollout(known, input, mode, resources_id, status, config, metadata)

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        """Change an attempt; see ``LightningStore``."""
        known = await self._known(rollout_id)
        return await self._store.update_attempt(known, attempt_id, status, worker_id, last_heartbeat_time, metadata)

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve a number; see ``LightningStore``."""
        return await self._store.get_next_span_sequence_id(await self._known(rollout_id), attempt_id)

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Replace a snapshot; see ``LightningStore``."""
        if await asyncio.to_thread(self.foreign, "resources", [resources_id]):
            msg = f"there are no resources {resources_id!r}"
            raise UnknownIdError(msg)
        return await self._store.update_resources(resources_id, resources)

    async def delete_rollouts(self, rollout_ids: Sequence[str]) -> int:
        """Delete rollouts; see ``LightningStore``."""
        return await self._store.delete_rollouts(await self._own(rollout_ids))

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span:
        """Insert a span of the SDK; see ``LightningStore``."""
        return await self.add_span(span_of_readable(rollout_id, attempt_id, readable_span, sequence_id or 0))

    # --- what is read ---

    async def query_changes(self, after: ChangeCursor | None = None, *, wait_s: float = 0.0) -> Changes:
        """Return what happened; see ``LightningStore``. A cursor is the caller's word: it may name anything."""
        found = await self._store.query_changes(after, wait_s=wait_s)
        named = {rollout.rollout_id for rollout in found.rollouts} | {span.rollout_id for span in found.spans}
        own = set(await self._own(list(named)))
        return Changes(
            found.cursor,
            [rollout for rollout in found.rollouts if rollout.rollout_id in own],
            [span for span in found.spans if span.rollout_id in own],
        )

    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        """Wait until rollouts are finished; see ``LightningStore``."""
        return await self._store.wait_for_rollouts(rollout_ids=await self._own(rollout_ids), timeout=timeout)

    async def query_child_rollouts(self, rollout_id: str) -> list[Rollout]:
        """Return the rollouts inside another; see ``LightningStore``."""
        if await self._hides(rollout_id):
            return []
        found = await self._store.query_child_rollouts(rollout_id)
        own = set(await self._own([rollout.rollout_id for rollout in found]))
        return [rollout for rollout in found if rollout.rollout_id in own]

    async def find_rollout_id(self, text: str) -> str:
        """Return the id of a rollout; see ``LightningStore``."""
        found = await self._store.find_rollout_id(text)
        if await self._hides(found):
            msg = f"there is no rollout {text!r}; 'agl ls' lists those that were recorded"
            raise UnknownIdError(msg)
        return found

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """Return a rollout or None; see ``LightningStore``."""
        return None if await self._hides(rollout_id) else await self._store.get_rollout_by_id(rollout_id)

    async def query_attempts(self, rollout_id: str) -> list[Attempt]:
        """Return the attempts of a rollout; see ``LightningStore``."""
        return [] if await self._hides(rollout_id) else await self._store.query_attempts(rollout_id)

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the latest attempt or None; see ``LightningStore``."""
        return None if await self._hides(rollout_id) else await self._store.get_latest_attempt(rollout_id)

    async def query_spans(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = False
    ) -> list[Span]:
        """Return the spans of a rollout; see ``LightningStore``."""
        if await self._hides(rollout_id):
            return []
        return await self._store.query_spans(rollout_id, attempt_id, include_open=include_open)

    async def query_span_rows(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = True
    ) -> list[SpanRow]:
        """Return the shape of a rollout; see ``LightningStore``."""
        if await self._hides(rollout_id):
            return []
        return await self._store.query_span_rows(rollout_id, attempt_id, include_open=include_open)

    async def query_spans_by_key(self, keys: Sequence[tuple[str, str]]) -> list[Span]:
        """Return spans by trace and span id; see ``LightningStore``."""
        found = await self._store.query_spans_by_key(keys)
        own = set(await self._own(list({span.rollout_id for span in found})))
        return [span for span in found if span.rollout_id in own]

    async def find_attempt_of_trace(self, trace_id: str) -> tuple[str, str] | None:
        """Return the newest attempt of a trace; see ``LightningStore``."""
        found = await self._store.find_attempt_of_trace(trace_id)
        return None if found is None or await self._hides(found[0]) else found

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Return a snapshot or None; see ``LightningStore``."""
        foreign = await asyncio.to_thread(self.foreign, "resources", [resources_id])
        return None if foreign else await self._store.get_resources_by_id(resources_id)

    async def statistics(self) -> StoreStatistics:
        """Refuse: they count what all projects hold.

        Raises:
            AccessError: Always.
        """
        msg = "statistics count all projects: they need a token that is not bound to one"
        raise AccessError(msg)
