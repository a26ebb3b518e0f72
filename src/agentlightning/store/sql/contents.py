"""Spans, resources and housekeeping of a store on an SQL database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentlightning._internal.clock import NS_PER_S, now_ns, to_ns
from agentlightning._internal.ids import new_resources_id
from agentlightning.errors import AccessError, UnknownIdError
from agentlightning.store.pack import from_json, to_json
from agentlightning.store.sql import changes, rows
from agentlightning.store.sql.follow import SqlFollow
from agentlightning.types.query import StoreStatistics
from agentlightning.types.resources import ResourcesUpdate
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.store.sql.connector import Row, Transaction
    from agentlightning.types.query import SpanRow
    from agentlightning.types.resources import NamedResources

_DAY_NS = 86_400 * NS_PER_S
_PRUNE_STEP = 200
"""Rollouts that retention deletes in one transaction, so that writers need not wait long."""


class SqlContents(SqlFollow):
    """What rollouts leave behind, and what they are given; see ``LightningStore`` for the promises."""

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Insert spans by the key rule; see ``LightningStore``."""
        if not spans:
            return []
        records = [span.to_record() for span in spans]
        await asyncio.to_thread(self.writer.add, records, [span.sequence_id for span in spans])
        self.activity.notify()
        keys = to_json([(record.trace_id, record.span_id) for record in records])
        found = await self.fetch("spans_by_key", (keys,))
        return [Span.from_record(*rows.to_span_record(row)) for row in found]

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve the next number of a rollout; see ``LightningStore``."""

        def reserve(transaction: Transaction) -> int:
            """Take the rollout's next number; UnknownIdError without such a rollout."""
            if not transaction.run("reserve_sequence", (rollout_id,)):
                msg = f"there is no rollout {rollout_id!r}"
                raise UnknownIdError(msg)
            return int(transaction.fetch("last_sequence", (rollout_id,))[0][1])

        _ = attempt_id  # numbers never repeat over the attempts of a rollout
        return await self.change(reserve)

    async def query_spans(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = False
    ) -> list[Span]:
        """Return the spans of a rollout in full; see ``LightningStore``."""
        found = await self._of_attempt("span_records", rollout_id, attempt_id, include_open=include_open)
        return await asyncio.to_thread(lambda: [Span.from_record(*rows.to_span_record(row)) for row in found])

    async def query_span_rows(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = True
    ) -> list[SpanRow]:
        """Return the shape of a rollout; see ``LightningStore``."""
        found = await self._of_attempt("span_rows", rollout_id, attempt_id, include_open=include_open)
        return [rows.to_span_row(row) for row in found]

    async def _of_attempt(
        self, query: str, rollout_id: str, attempt_id: str | None, *, include_open: bool
    ) -> list[Row]:
        if attempt_id == "latest":
            attempts = await self.fetch("attempts", (rollout_id,))
            attempt_id = attempts[-1][0] if attempts else None
        return await self.fetch(query, (rollout_id, attempt_id, int(include_open)))

    async def add_resources(self, resources: NamedResources, *, resources_id: str | None = None) -> ResourcesUpdate:
        """Store a snapshot of resources; see ``LightningStore``."""
        update = ResourcesUpdate(resources_id=resources_id or new_resources_id(), resources=resources)
        return await self._put(update, is_new=True)

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Replace a snapshot; see ``LightningStore``."""
        _known(await self.fetch_one("resources", (resources_id,)), resources_id)
        return await self._put(ResourcesUpdate(resources_id=resources_id, resources=resources))

    async def _put(self, update: ResourcesUpdate, *, is_new: bool = False) -> ResourcesUpdate:
        text = to_json(update.model_dump(mode="json")["resources"])

        def put(transaction: Transaction) -> Row | None:
            """Store the snapshot and mark it as the latest; AccessError when the id is another project's.

            Return what an earlier call with the id of a new one stored instead.
            """
            owner = transaction.fetch("project_of_resources", (update.resources_id,)) if is_new else []
            if owner and owner[0][0] != self.project:
                msg = f"an id for new resources is used in another project than {self.project!r}"
                raise AccessError(msg)
            if owner:
                return transaction.fetch("resources", (update.resources_id,))[0]
            transaction.run("put_resources", (update.resources_id, self.project, now_ns(), text))
            return None

        return _to_resources(await self.change(put)) or update

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Return a snapshot or None; see ``LightningStore``."""
        return _to_resources(await self.fetch_one("resources", (resources_id,)))

    async def get_latest_resources(self, name: str | None = None) -> ResourcesUpdate | None:
        """Return the latest snapshot or None; see ``LightningStore``."""
        if name is None:
            return _to_resources(await self.fetch_one("latest_resources", (self.project,)))
        return _to_resources(await self.fetch_one("latest_resources_with", (self.project, name)))

    async def find_attempt_of_trace(self, trace_id: str) -> tuple[str, str] | None:
        """Return the newest attempt with a span of a trace; see ``LightningStore``."""
        row = await self.fetch_one("attempt_of_trace", (trace_id,))
        return None if row is None else (row[0], row[1])

    async def delete_rollouts(self, rollout_ids: Sequence[str]) -> int:
        """Delete rollouts; see ``LightningStore``."""
        deleted = 0
        for start in range(0, len(rollout_ids), _PRUNE_STEP):
            part = rollout_ids[start : start + _PRUNE_STEP]
            deleted += (await self.change(lambda t, part=part: changes.delete_rollouts(t, part)))[0]
        return deleted

    async def prune(self, *, before: float | None = None, keep: int | None = None) -> int:
        """Delete what retention no longer wants; see ``LightningStore``."""
        if before is None and keep is None:
            return 0
        quiet_since = now_ns() - _DAY_NS
        parameters = (self.project, to_ns(before), keep or 0, quiet_since, _PRUNE_STEP)
        deleted = 0
        while found := await self.fetch("prunable", parameters):
            deleted += await self.delete_rollouts([row[0] for row in found])
        return deleted

    async def statistics(self) -> StoreStatistics:
        """Count what the store holds; see ``LightningStore``."""
        counted = (await self.fetch("counts", (self.project,)))[0]
        statuses: dict[str, int] = dict(await self.fetch("statuses", (self.project,)))
        numbers: dict[str, int] = dict(
            zip(("rollouts", "attempts", "spans", "resources", "queued"), counted, strict=True)
        )
        size_bytes = await asyncio.to_thread(self.connector.size_bytes)
        return StoreStatistics(**numbers, statuses=statuses, size_bytes=size_bytes)


def _to_resources(row: Row | None) -> ResourcesUpdate | None:
    return None if row is None else ResourcesUpdate(resources_id=row[0], resources=from_json(row[1]))


def _known(row: Row | None, key: str) -> Row:
    if row is None:
        msg = f"there are no resources {key!r}"
        raise UnknownIdError(msg)
    return row
