"""A store on an SQL database, over any connector; the SQLite one is the default store.

Queries run on a helper thread, so an event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning import settings
from agentlightning._internal.clock import now_ns, to_ns
from agentlightning._internal.ids import new_attempt_id, new_resources_id, new_rollout_id, process_key
from agentlightning.errors import UnknownIdError
from agentlightning.store.base import UNSET, LightningStore, Unset
from agentlightning.store.pack import from_json, to_json
from agentlightning.store.sql import rows
from agentlightning.store.sql.sqlite import SqliteConnector
from agentlightning.store.sql.writer import BatchWriter
from agentlightning.types.convert import record_from_readable, resource_record
from agentlightning.types.record import WriteBatch
from agentlightning.types.resources import ResourcesUpdate
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.store.sql.connector import Connector, Row, Transaction
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
    from agentlightning.types.record import SpanRecord, WriteResult
    from agentlightning.types.resources import NamedResources

T = TypeVar("T")

_FINISHED = ("succeeded", "failed", "cancelled")
_ATTEMPT_OVER = ("succeeded", "failed", "timeout")


class SqlLightningStore(LightningStore):
    """The store contract on an SQL database. Thread-safe."""

    def __init__(self, connector: Connector, *, project: str | None = None, url: str | None = None) -> None:
        """Keep the store behind *connector*; *project* defaults to ``AGL_PROJECT``."""
        self.project = project or settings.get(settings.PROJECT)
        self.url = url
        self._connector = connector
        self._writer = BatchWriter(connector)

    # --- the pipeline's way in -------------------------------------------------------------------------------------

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch of the pipeline; see ``LightningStore``."""
        return self._writer.write(batch)

    # --- rollouts --------------------------------------------------------------------------------------------------

    async def start_rollout(
        self,
        input: TaskInput,  # noqa: A002 - a name of the public API
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AttemptedRollout:
        """Create a rollout with its first attempt; see ``LightningStore``."""
        rollout_id, attempt_id, start = new_rollout_id(), new_attempt_id(), now_ns()
        if resources_id is None:
            latest = await self.get_latest_resources()
            resources_id = latest.resources_id if latest else None
        parent = (metadata or {}).get("parent_rollout_id")
        limits = "{}" if config is None else config.model_dump_json()
        rollout = (
            rollout_id, self.project, "preparing", mode, resources_id, parent, 0, start, limits,
            to_json(metadata), to_json(input),
        )  # fmt: skip
        attempt = (attempt_id, rollout_id, 1, "preparing", start, None, to_json({"process": process_key()}))

        def create(transaction: Transaction) -> None:
            transaction.run("add_project", (self.project, start))
            transaction.run_rows("start_rollouts", [rollout])
            transaction.run_rows("start_attempts", [attempt])

        await self._change(create)
        row = await self._one("rollout", (rollout_id,))
        attempts = await self.query_attempts(rollout_id)
        return rows.to_attempted_rollout(_known(row, "rollout", rollout_id), attempts[0])

    async def query_rollouts(
        self, *, status: Sequence[RolloutStatus] | None = None, rollout_ids: Sequence[str] | None = None
    ) -> list[Rollout]:
        """Return the project's rollouts, oldest first; see ``LightningStore``."""
        wanted = [None if names is None else to_json(list(names)) for names in (status, rollout_ids)]
        return [rows.to_rollout(row) for row in await self._fetch("rollouts_by_status", (self.project, *wanted))]

    async def query_newest_rollouts(self, limit: int = 20, offset: int = 0, *, children: bool = False) -> list[Rollout]:
        """Return the project's newest rollouts; see ``LightningStore``."""
        parameters = (self.project, int(children), limit, offset)
        return [rows.to_rollout(row) for row in await self._fetch("newest_rollouts", parameters)]

    async def query_child_rollouts(self, rollout_id: str) -> list[Rollout]:
        """Return the rollouts that ran inside another; see ``LightningStore``."""
        return [rows.to_rollout(row) for row in await self._fetch("child_rollouts", (rollout_id,))]

    async def find_rollout_id(self, text: str) -> str:
        """Return the id of the rollout that *text* means; see ``LightningStore``."""
        if text == "latest":
            newest = await self.query_newest_rollouts(limit=1)
            if not newest:
                msg = f"project {self.project!r} has no rollout yet; record one with 'agl run python your_agent.py'"
                raise UnknownIdError(msg)
            return newest[0].rollout_id
        if await self._one("rollout", (text,)):
            return text
        beginnings = (text, f"ro-{text}") if text else ()
        for beginning in beginnings:
            found = await self._fetch("rollout_by_prefix", (beginning, beginning + "\U0010ffff"))
            if len(found) == 1:
                return str(found[0][0])
            if found:
                msg = f"several rollouts begin with {text!r}; give more of the id ('agl ls' lists them)"
                raise UnknownIdError(msg)
        msg = f"there is no rollout {text!r}; 'agl ls' lists those that were recorded"
        raise UnknownIdError(msg)

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """Return a rollout or None; see ``LightningStore``."""
        row = await self._one("rollout", (rollout_id,))
        return None if row is None else rows.to_rollout(row)

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
        """Change the fields that are given; see ``LightningStore``."""

        def change(transaction: Transaction) -> Rollout:
            rollout = rows.to_rollout(_known(_first(transaction, "rollout", rollout_id), "rollout", rollout_id))
            given = {"input": input, "mode": mode, "resources_id": resources_id, "config": config, "metadata": metadata}
            fields = {name: value for name, value in given.items() if not isinstance(value, Unset)}
            if not isinstance(status, Unset):
                fields |= {"status": status, "end_time": now_ns() / 1e9 if status in _FINISHED else None}
            rollout = rollout.model_copy(update=fields)
            _set_rollout(transaction, rollout)
            return rollout

        return await self._change(change)

    # --- attempts --------------------------------------------------------------------------------------------------

    async def query_attempts(self, rollout_id: str) -> list[Attempt]:
        """Return the attempts of a rollout; see ``LightningStore``."""
        return [rows.to_attempt(row) for row in await self._fetch("attempts", (rollout_id,))]

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the latest attempt or None; see ``LightningStore``."""
        attempts = await self.query_attempts(rollout_id)
        return attempts[-1] if attempts else None

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        """Change the fields that are given; see ``LightningStore``."""

        def change(transaction: Transaction) -> Attempt:
            attempts = [rows.to_attempt(row) for row in transaction.fetch("attempts", (rollout_id,))]
            attempt = _pick(attempts, rollout_id, attempt_id)
            given = {"worker_id": worker_id, "last_heartbeat_time": last_heartbeat_time, "metadata": metadata}
            fields = {name: value for name, value in given.items() if not isinstance(value, Unset)}
            if not isinstance(status, Unset):
                fields |= {"status": status, "end_time": now_ns() / 1e9 if status in _ATTEMPT_OVER else None}
            changed = attempt.model_copy(update=fields)
            transaction.run("set_attempt", _attempt_parameters(changed))
            if not isinstance(status, Unset) and attempt is attempts[-1]:
                rollout = rows.to_rollout(_known(_first(transaction, "rollout", rollout_id), "rollout", rollout_id))
                passed = "failed" if status in ("timeout", "unresponsive") else status
                end = changed.end_time if passed in _FINISHED else None
                _set_rollout(transaction, rollout.model_copy(update={"status": passed, "end_time": end}))
            return changed

        return await self._change(change)

    # --- spans -----------------------------------------------------------------------------------------------------

    async def add_span(self, span: Span) -> Span:
        """Insert a span by the key rule; see ``LightningStore``."""
        return await self._add(span.to_record(), span.sequence_id)

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span:
        """Insert a span of the SDK; see ``LightningStore``."""
        record = record_from_readable(
            readable_span,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            counter=sequence_id or 0,
            process=process_key(),
            resource=resource_record(readable_span.resource),
        )
        record.rollout_id, record.attempt_id = rollout_id, attempt_id
        return await self._add(record, sequence_id or 0)

    async def _add(self, record: SpanRecord, sequence_id: int) -> Span:
        attempts = await self.query_attempts(record.rollout_id)
        _pick(attempts, record.rollout_id, record.attempt_id)
        if sequence_id:
            await self._change(lambda t: t.run("raise_sequence", (record.rollout_id, sequence_id - 1)))
        await asyncio.to_thread(self.write_batch, WriteBatch(spans=[record], project=self.project))
        stored = await self._fetch("span_records", (record.rollout_id, record.attempt_id, 1))
        for row in stored:
            if row[1] == record.span_id:
                return Span.from_record(*rows.to_span_record(row))
        return Span.from_record(record, sequence_id)

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve the next number of a rollout; see ``LightningStore``."""

        def reserve(transaction: Transaction) -> int:
            if not transaction.run("reserve_sequence", (rollout_id,)):
                msg = f"there is no rollout {rollout_id!r}"
                raise UnknownIdError(msg)
            return int(transaction.fetch("last_sequences", (to_json({rollout_id: 0}),))[0][1])

        _ = attempt_id  # numbers never repeat over the attempts of a rollout
        return await self._change(reserve)

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
            latest = await self.get_latest_attempt(rollout_id)
            attempt_id = latest.attempt_id if latest else None
        return await self._fetch(query, (rollout_id, attempt_id, int(include_open)))

    # --- resources -------------------------------------------------------------------------------------------------

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """Store a snapshot of resources; see ``LightningStore``."""
        return await self._put(ResourcesUpdate(resources_id=new_resources_id(), resources=resources))

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Replace a snapshot; see ``LightningStore``."""
        _known(await self._one("resources", (resources_id,)), "resources", resources_id)
        return await self._put(ResourcesUpdate(resources_id=resources_id, resources=resources))

    async def _put(self, update: ResourcesUpdate) -> ResourcesUpdate:
        text = to_json(update.model_dump(mode="json")["resources"])
        await self._change(lambda t: t.run("put_resources", (update.resources_id, self.project, now_ns(), text)))
        return update

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Return a snapshot or None; see ``LightningStore``."""
        return _to_resources(await self._one("resources", (resources_id,)))

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Return the latest snapshot or None; see ``LightningStore``."""
        return _to_resources(await self._one("latest_resources", (self.project,)))

    # --- plumbing --------------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """Make the store usable in a forked child; see ``LightningStore``."""
        self._connector.after_fork()
        self._writer = BatchWriter(self._connector)

    def close(self) -> None:
        """Close the connections; see ``LightningStore``."""
        self._connector.close()

    async def _fetch(self, query: str, parameters: Sequence[object]) -> list[Row]:
        def fetch() -> list[Row]:
            with self._connector.read() as transaction:
                return transaction.fetch(query, parameters)

        return await asyncio.to_thread(fetch)

    async def _one(self, query: str, parameters: Sequence[object]) -> Row | None:
        found = await self._fetch(query, parameters)
        return found[0] if found else None

    async def _change(self, work: Callable[[Transaction], T]) -> T:
        def change() -> T:
            with self._connector.write() as transaction:
                return work(transaction)

        return await asyncio.to_thread(change)


class SqliteLightningStore(SqlLightningStore):
    """The default store: one SQLite file, durable on every write, shared by any number of processes."""

    def __init__(self, path: str | Path, *, project: str | None = None, create: bool = True) -> None:
        """Open the file at *path*; see ``SqliteConnector`` for what it raises."""
        connector = SqliteConnector(path, create=create)
        super().__init__(connector, project=project, url=f"sqlite:///{connector.path}")


def _first(transaction: Transaction, query: str, key: str) -> Row | None:
    found = transaction.fetch(query, (key,))
    return found[0] if found else None


def _known(row: Row | None, what: str, key: str) -> Row:
    if row is None:
        msg = f"there is no {what} {key!r}"
        raise UnknownIdError(msg)
    return row


def _pick(attempts: list[Attempt], rollout_id: str, attempt_id: str) -> Attempt:
    for attempt in reversed(attempts):
        if attempt_id in ("latest", attempt.attempt_id):
            return attempt
    msg = f"rollout {rollout_id!r} has no attempt {attempt_id!r}" if attempts else f"there is no rollout {rollout_id!r}"
    raise UnknownIdError(msg)


def _set_rollout(transaction: Transaction, rollout: Rollout) -> None:
    parameters = (
        rollout.rollout_id, rollout.status, to_ns(rollout.end_time), rollout.mode, rollout.resources_id,
        rollout.config.model_dump_json(), to_json(rollout.metadata), to_json(rollout.input),
    )  # fmt: skip
    transaction.run("set_rollout", parameters)


def _attempt_parameters(attempt: Attempt) -> tuple[object, ...]:
    return (
        attempt.attempt_id, attempt.status, to_ns(attempt.end_time), to_ns(attempt.last_heartbeat_time),
        attempt.worker_id, to_json(attempt.metadata),
    )  # fmt: skip


def _to_resources(row: Row | None) -> ResourcesUpdate | None:
    return None if row is None else ResourcesUpdate(resources_id=row[0], resources=from_json(row[1]))
