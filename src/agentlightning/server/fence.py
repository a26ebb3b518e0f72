"""A store of which only one project can be seen and changed: what a token that is bound to a project reaches.

Ids are known to a whole store. What belongs to another project is treated as if it did not exist where it would be
read, and refused where it would be changed.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, TypeVar, cast

from agentlightning.errors import AccessError, UnknownIdError
from agentlightning.store.forward import ForwardingStore
from agentlightning.store.pack import to_json
from agentlightning.store.sql.manager import SqlLightningStore
from agentlightning.types.change import Changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from agentlightning.store.base import LightningStore
    from agentlightning.store.request import NewRollouts, RolloutChange
    from agentlightning.types.change import ChangeCursor
    from agentlightning.types.core import AttemptedRollout, Rollout
    from agentlightning.types.query import StoreStatistics
    from agentlightning.types.record import Metadata, SpanRecord, WriteBatch, WriteResult
    from agentlightning.types.resources import NamedResources, ResourcesUpdate
    from agentlightning.types.tracer import Span

T = TypeVar("T")
M = TypeVar("M", bound="Callable[..., Awaitable[object]]")


def _of_known(method: M) -> M:
    """Return *method*, whose first argument is a rollout's id: another project's is an UnknownIdError."""

    @functools.wraps(method)
    async def call(self: FencedStore, /, rollout_id: str, *args: object, **kwargs: object) -> object:
        """Call the store behind, unless the rollout is another project's."""
        return await method(self, await self.known(rollout_id), *args, **kwargs)

    return cast("M", call)


def _unless_hidden(method: M, nothing: Callable[[], object]) -> M:
    """Return *method*, whose first argument is a rollout's id: of another project's there is *nothing*."""

    @functools.wraps(method)
    async def call(self: FencedStore, /, rollout_id: str, *args: object, **kwargs: object) -> object:
        """Call the store behind, unless the rollout is another project's."""
        return nothing() if await self.hides(rollout_id) else await method(self, rollout_id, *args, **kwargs)

    return cast("M", call)


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

    async def hides(self, rollout_id: str) -> bool:
        """Tell whether a rollout is another project's."""
        return bool(await asyncio.to_thread(self.foreign, "rollouts", [rollout_id]))

    async def known(self, rollout_id: str) -> str:
        """Return *rollout_id*.

        Raises:
            UnknownIdError: The rollout is another project's.
        """
        if await self.hides(rollout_id):
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

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Insert spans; see ``LightningStore``."""
        await asyncio.to_thread(self._refuse, "rollouts", {span.rollout_id for span in spans})
        await asyncio.to_thread(self._refuse, "spans", [(span.trace_id, span.span_id) for span in spans])
        return await self._store.add_spans(spans)

    async def add_started(self, new: NewRollouts) -> AttemptedRollout:
        """Create a rollout; see ``LightningStore``."""
        await self._check_new(new.metadata, new.resources_id)
        return await self._store.add_started(new)

    async def add_queued(self, new: NewRollouts) -> list[Rollout]:
        """Put rollouts into the queue; see ``LightningStore``."""
        await self._check_new(new.metadata, new.resources_id)
        return await self._store.add_queued(new)

    async def _check_new(self, metadata: Metadata | None, resources_id: str | None) -> None:
        await asyncio.to_thread(self._refuse, "rollouts", [str((metadata or {}).get("parent_rollout_id"))])
        await asyncio.to_thread(self._refuse, "resources", [resources_id or ""])

    async def change_rollout(self, rollout_id: str, change: RolloutChange) -> Rollout:
        """Change a rollout; see ``LightningStore``."""
        given = change.given()
        await self._check_new(given.get("metadata"), given.get("resources_id"))
        return await self._store.change_rollout(await self.known(rollout_id), change)

    change_attempt = _of_known(ForwardingStore.change_attempt)
    start_attempt = _of_known(ForwardingStore.start_attempt)
    heartbeat = _of_known(ForwardingStore.heartbeat)
    get_next_span_sequence_id = _of_known(ForwardingStore.get_next_span_sequence_id)

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Replace a snapshot; see ``LightningStore``."""
        if await asyncio.to_thread(self.foreign, "resources", [resources_id]):
            msg = f"there are no resources {resources_id!r}"
            raise UnknownIdError(msg)
        return await self._store.update_resources(resources_id, resources)

    async def delete_rollouts(self, rollout_ids: Sequence[str]) -> int:
        """Delete rollouts; see ``LightningStore``."""
        return await self._store.delete_rollouts(await self._own(rollout_ids))

    # --- what is read ---

    get_rollout_by_id = _unless_hidden(ForwardingStore.get_rollout_by_id, type(None))
    query_attempts = _unless_hidden(ForwardingStore.query_attempts, list)
    query_spans = _unless_hidden(ForwardingStore.query_spans, list)
    query_span_rows = _unless_hidden(ForwardingStore.query_span_rows, list)

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
        if await self.hides(rollout_id):
            return []
        found = await self._store.query_child_rollouts(rollout_id)
        own = set(await self._own([rollout.rollout_id for rollout in found]))
        return [rollout for rollout in found if rollout.rollout_id in own]

    async def find_rollout_id(self, text: str) -> str:
        """Return the id of a rollout; see ``LightningStore``."""
        found = await self._store.find_rollout_id(text)
        if await self.hides(found):
            msg = f"there is no rollout {text!r}; 'agl ls' lists those that were recorded"
            raise UnknownIdError(msg)
        return found

    async def query_spans_by_key(self, keys: Sequence[tuple[str, str]]) -> list[Span]:
        """Return spans by trace and span id; see ``LightningStore``."""
        found = await self._store.query_spans_by_key(keys)
        own = set(await self._own(list({span.rollout_id for span in found})))
        return [span for span in found if span.rollout_id in own]

    async def find_attempt_of_trace(self, trace_id: str) -> tuple[str, str] | None:
        """Return the newest attempt of a trace; see ``LightningStore``."""
        found = await self._store.find_attempt_of_trace(trace_id)
        return None if found is None or await self.hides(found[0]) else found

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
