"""A store on an SQL database, over any connector; the SQLite one is the default store.

Queries run on a helper thread, so an event loop never waits for a disk.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentlightning._internal.clock import now_ns, to_ns
from agentlightning._internal.ids import new_attempt_id, process_key
from agentlightning.errors import AccessError, UnknownIdError
from agentlightning.store import lifecycle
from agentlightning.store.base import DEFAULT_POLL_S, LightningStore
from agentlightning.store.pack import to_json
from agentlightning.store.sql import changes, rows
from agentlightning.store.sql.changes import NewAttempt
from agentlightning.store.sql.contents import SqlContents
from agentlightning.store.sql.sqlite import SqliteConnector
from agentlightning.types.query import RolloutFilter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentlightning.store.request import AttemptChange, NewRollouts, RolloutChange
    from agentlightning.store.sql.connector import Row, Transaction
    from agentlightning.types.core import Attempt, AttemptedRollout, AttemptStatus, Rollout, RolloutStatus


class SqlLightningStore(SqlContents, LightningStore):
    """The store contract on an SQL database. Thread-safe."""

    async def add_started(self, new: NewRollouts) -> AttemptedRollout:
        """Create a rollout with its first attempt; see ``LightningStore``."""
        attempt = NewAttempt(new_attempt_id(), new.ids()[0], now_ns(), process=process_key())

        def create(transaction: Transaction) -> AttemptedRollout:
            """Insert rollout and attempt, or return those that an earlier call with this id made."""
            if new.given_ids is not None and changes.present(transaction, new.given_ids, self.project):
                return _attempted(transaction, attempt.rollout_id)
            self._insert(transaction, new, [attempt.rollout_id], "preparing", attempt.now_ns)
            row = transaction.fetch("rollout", (attempt.rollout_id,))[0]
            changes.add_attempt(transaction, attempt, 1, changes.limits_of(row))
            return _attempted(transaction, attempt.rollout_id)

        return await self.change(create)

    async def add_queued(self, new: NewRollouts) -> list[Rollout]:
        """Put rollouts into the queue; see ``LightningStore``."""
        ids = new.ids()
        if not ids:
            return []

        def create(transaction: Transaction) -> list[Row]:
            """Insert the rollouts unless an earlier call with these ids did, and return their rows."""
            # All or nothing of a call is there: its transaction was one.
            if new.given_ids is None or not changes.present(transaction, ids, self.project):
                self._insert(transaction, new, ids, "queuing", now_ns())
            return transaction.fetch("rollouts_where", self._where(ids, None, RolloutFilter()))

        found = {row[0]: row for row in await self.change(create)}
        gone = next((rollout_id for rollout_id in ids if rollout_id not in found), None)
        if gone is not None:
            msg = f"rollout {gone!r} is gone, while others of the same call are there: give new ids to all"
            raise UnknownIdError(msg)
        return [rows.to_rollout(found[rollout_id]) for rollout_id in ids]

    def _insert(
        self, transaction: Transaction, new: NewRollouts, ids: Sequence[str], status: RolloutStatus, start_ns: int
    ) -> None:
        resources_id = new.resources_id
        if resources_id is None:
            latest = transaction.fetch("latest_resources", (self.project,))
            resources_id = latest[0][0] if latest else None
        limits = "{}" if new.config is None else new.config.model_dump_json()
        metadata, parent = to_json(new.metadata), changes.parent_of(new.metadata)
        queued = status in lifecycle.QUEUEING
        place = transaction.fetch("last_in_queue", (self.project,))[0][0] if queued else 0
        transaction.run("add_project", (self.project, start_ns))
        transaction.run_rows(
            "start_rollouts",
            [
                (
                    rollout_id, self.project, status, new.mode, resources_id, parent, 0, start_ns, limits,
                    metadata, to_json(task), place + number if queued else None,
                )
                for number, (rollout_id, task) in enumerate(zip(ids, new.inputs, strict=True), 1)
            ],
        )  # fmt: skip

    async def dequeue_rollout(
        self, *, worker_id: str | None = None, lease_s: float | None = None, attempt_id: str | None = None
    ) -> AttemptedRollout | None:
        """Claim the oldest rollout of the queue; see ``LightningStore``."""
        if not await self.fetch("is_claimable", (self.project, attempt_id)):
            return None  # idle workers ask often: they take no writer's turn

        def claim(transaction: Transaction) -> AttemptedRollout | None:
            """Return what an earlier call with this id claimed, else claim the first of the queue."""
            made = changes.find_made(transaction, attempt_id)
            if made is not None:
                changes.present(transaction, [made.attempt.rollout_id], self.project)
                is_ours = made.attempt.latest and made.attempt.status not in lifecycle.OVER
                return _attempted(transaction, made.attempt.rollout_id) if is_ours else None
            first = transaction.fetch("first_in_queue", (self.project,))
            if not first:
                return None
            new = NewAttempt(attempt_id or new_attempt_id(), first[0][0], now_ns(), worker_id, to_ns(lease_s))
            changes.add_next_attempt(transaction, new)
            return _attempted(transaction, new.rollout_id)

        return await self.change(claim)

    async def start_attempt(self, rollout_id: str, *, attempt_id: str | None = None) -> AttemptedRollout:
        """Make a further attempt; see ``LightningStore``."""

        def start(transaction: Transaction) -> AttemptedRollout:
            """Add an attempt unless an earlier call with this id did; AccessError when it is another rollout's."""
            made = changes.find_made(transaction, attempt_id)
            if made is None:
                changes.add_next_attempt(transaction, NewAttempt(attempt_id or new_attempt_id(), rollout_id, now_ns()))
            elif made.attempt.rollout_id != rollout_id:
                msg = f"attempt {attempt_id!r} is one of another rollout than {rollout_id!r}"
                raise AccessError(msg)
            return _attempted(transaction, rollout_id, attempt_id)

        return await self.change(start)

    async def heartbeat(self, rollout_id: str, attempt_id: str) -> Attempt:
        """Note that an attempt is alive; see ``LightningStore``."""

        def beat(transaction: Transaction) -> Attempt:
            """Renew the lease of the attempt, unless a later one exists."""
            found = changes.find_attempt(transaction, rollout_id, attempt_id)
            lifecycle.check_not_stale(found.attempt)
            changes.note_signs_of_life(transaction, [found.attempt.attempt_id], now_ns())
            return _attempt(transaction, rollout_id, found.attempt.attempt_id)

        return await self.change(beat)

    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        """Wait until rollouts are finished; see ``LightningStore``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        wanted = to_json(rollout_ids)
        with self.signal.listen() as listener:
            while True:
                listener.clear()
                statuses: dict[str, str] = dict(await self.fetch("statuses_of", (wanted,)))
                left = DEFAULT_POLL_S if deadline is None else min(DEFAULT_POLL_S, deadline - time.monotonic())
                if left <= 0 or lifecycle.FINISHED.issuperset(statuses.values()):
                    break
                await listener.wait(left)
        done = [rollout_id for rollout_id in rollout_ids if statuses.get(rollout_id) in lifecycle.FINISHED]
        found = {
            r.rollout_id: r for rollout_id in dict.fromkeys(done) if (r := await self.get_rollout_by_id(rollout_id))
        }
        return list(found.values())

    async def query_rollouts(
        self,
        *,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        where: RolloutFilter | None = None,
    ) -> list[Rollout]:
        """Return the project's rollouts; see ``LightningStore``."""
        parameters = self._where(rollout_ids, status, where or RolloutFilter())
        return [rows.to_rollout(row) for row in await self.fetch("rollouts_where", parameters)]

    def _where(
        self, rollout_ids: Sequence[str] | None, status: Sequence[str] | None, where: RolloutFilter
    ) -> tuple[object, ...]:
        """Return the parameters of the query ``rollouts_where``."""
        listed = [None if names is None else to_json(list(names)) for names in (status, rollout_ids, where.modes)]
        # As SQLite's lower(): ASCII only, on the text as JSON writes it.
        text = None if where.text is None else to_json(where.text)[1:-1].encode().lower().decode()
        return (
            self.project,
            *listed,
            to_ns(where.start_after),
            to_ns(where.start_before),
            None if where.metadata is None else to_json(where.metadata),
            text,
            int(where.newest_first),
            -1 if where.limit is None else where.limit,
            where.offset,
        )

    async def query_newest_rollouts(self, limit: int = 20, offset: int = 0, *, children: bool = False) -> list[Rollout]:
        """Return the project's newest rollouts; see ``LightningStore``."""
        parameters = (self.project, int(children), limit, offset)
        return [rows.to_rollout(row) for row in await self.fetch("newest_rollouts", parameters)]

    async def query_child_rollouts(self, rollout_id: str) -> list[Rollout]:
        """Return the rollouts that ran inside another; see ``LightningStore``."""
        return [rows.to_rollout(row) for row in await self.fetch("child_rollouts", (rollout_id,))]

    async def find_rollout_id(self, text: str) -> str:
        """Return the id of the rollout that *text* means; see ``LightningStore``."""
        if text == "latest":
            newest = await self.query_newest_rollouts(limit=1)
            if not newest:
                msg = f"project {self.project!r} has no rollout yet; record one with 'agl run python your_agent.py'"
                raise UnknownIdError(msg)
            return newest[0].rollout_id
        if await self.fetch_one("rollout", (text,)):
            return text
        beginnings = (text, f"ro-{text}") if text else ()
        for beginning in beginnings:
            found = await self.fetch("rollout_by_prefix", (beginning, beginning + "\U0010ffff"))
            if len(found) == 1:
                return str(found[0][0])
            if found:
                msg = f"several rollouts begin with {text!r}; give more of the id ('agl ls' lists them)"
                raise UnknownIdError(msg)
        msg = f"there is no rollout {text!r}; 'agl ls' lists those that were recorded"
        raise UnknownIdError(msg)

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """Return a rollout or None; see ``LightningStore``."""
        row = await self.fetch_one("rollout", (rollout_id,))
        return None if row is None else rows.to_rollout(row)

    async def change_rollout(self, rollout_id: str, change: RolloutChange) -> Rollout:
        """Change the fields that are given; see ``LightningStore``."""

        def update(transaction: Transaction) -> Rollout:
            """Change the fields first, then the status, which may end or queue the rollout."""
            rollout = _rollout(transaction, rollout_id)
            fields = change.given()
            status: RolloutStatus | None = fields.pop("status", None)
            attempt_count = fields.pop("attempt_count", None)
            if attempt_count not in {None, len(transaction.fetch("attempts", (rollout_id,)))}:
                status = None
            if fields:
                _set_rollout_fields(transaction, rollout.model_copy(update=fields))
            if status is not None:
                lifecycle.check_rollout_change(rollout_id, rollout.status, status)
                if status != rollout.status:
                    changes.set_rollout_status(transaction, rollout_id, status, now_ns())
            return _rollout(transaction, rollout_id)

        return await self.change(update)

    async def query_attempts(self, rollout_id: str) -> list[Attempt]:
        """Return the attempts of a rollout; see ``LightningStore``."""
        return [rows.to_attempt(row) for row in await self.fetch("attempts", (rollout_id,))]

    async def change_attempt(self, rollout_id: str, attempt_id: str, change: AttemptChange) -> Attempt:
        """Change the fields that are given; see ``LightningStore``."""

        def update(transaction: Transaction) -> Attempt:
            """Change the status first, which may be refused, then the fields."""
            found = changes.find_attempt(transaction, rollout_id, attempt_id)
            attempt = _attempt(transaction, rollout_id, found.attempt.attempt_id)
            fields = change.given()
            status: AttemptStatus | None = fields.pop("status", None)
            if status is not None:
                changes.set_attempt_status(transaction, found, status, now_ns())
            if fields:
                _set_attempt_fields(transaction, attempt.model_copy(update=fields))
            return _attempt(transaction, rollout_id, found.attempt.attempt_id)

        return await self.change(update)


class SqliteLightningStore(SqlLightningStore):
    """The default store: one SQLite file, durable on every write, shared by any number of processes."""

    def __init__(self, path: str | Path, *, project: str | None = None, create: bool = True) -> None:
        """Open the file at *path*; see ``SqliteConnector`` for what it raises."""
        connector = SqliteConnector(path, create=create)
        super().__init__(connector, project=project, url=f"sqlite:///{connector.path}")


def _rollout(transaction: Transaction, rollout_id: str) -> Rollout:
    found = transaction.fetch("rollout", (rollout_id,))
    return rows.to_rollout(_known(found[0] if found else None, "rollout", rollout_id))


def _attempt(transaction: Transaction, rollout_id: str, attempt_id: str) -> Attempt:
    return next(rows.to_attempt(row) for row in transaction.fetch("attempts", (rollout_id,)) if row[0] == attempt_id)


def _attempted(transaction: Transaction, rollout_id: str, attempt_id: str | None = None) -> AttemptedRollout:
    """Return a rollout with an attempt, the latest one unless another is named."""
    attempts = [rows.to_attempt(row) for row in transaction.fetch("attempts", (rollout_id,))]
    found = [attempt for attempt in attempts if attempt_id in {None, attempt.attempt_id}]
    if not found:  # the caller's id for a new rollout is that of one in the queue
        msg = f"rollout {rollout_id!r} has no attempt"
        raise UnknownIdError(msg)
    return rows.to_attempted_rollout(transaction.fetch("rollout", (rollout_id,))[0], found[-1])


def _known(row: Row | None, what: str, key: str) -> Row:
    if row is None:
        msg = f"there is no {what} {key!r}"
        raise UnknownIdError(msg)
    return row


def _set_rollout_fields(transaction: Transaction, rollout: Rollout) -> None:
    config = rollout.config.model_dump_json()
    parameters = (rollout.mode, rollout.resources_id, config, to_json(rollout.metadata), to_json(rollout.input))
    transaction.run("set_rollout_fields", (rollout.rollout_id, *parameters))
    # New limits hold for the attempt that is at work.
    for row in transaction.fetch("attempts", (rollout.rollout_id,))[-1:]:
        found = changes.find_attempts(transaction, [row[0]])[row[0]]
        due = lifecycle.deadline_ns(found.attempt, found.limits)
        transaction.run("set_attempt_deadline", (row[0], due))


def _set_attempt_fields(transaction: Transaction, attempt: Attempt) -> None:
    parameters = (to_ns(attempt.last_heartbeat_time), attempt.worker_id, to_json(attempt.metadata))
    transaction.run("set_attempt_fields", (attempt.attempt_id, *parameters))
