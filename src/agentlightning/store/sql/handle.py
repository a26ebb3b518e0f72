"""A project of a database: how its queries run, and the pipeline's way in."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, TypeVar

from agentlightning import settings
from agentlightning._internal.clock import now_ns
from agentlightning.store.signal import ChangeSignal
from agentlightning.store.sql import changes
from agentlightning.store.sql.writer import BatchWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from agentlightning.store.sql.connector import Connector, Row, Transaction
    from agentlightning.types.record import WriteBatch, WriteResult

T = TypeVar("T")


class SqlHandle:
    """One project of a database. Thread-safe; queries run on helper threads, so an event loop never waits for a disk.

    Its methods are those of ``LightningStore`` and promise the same.
    """

    def __init__(self, connector: Connector, *, project: str | None = None, url: str | None = None) -> None:
        """Keep the store behind *connector*; *project* defaults to ``AGL_PROJECT``."""
        self.project = project or settings.get(settings.PROJECT)
        self.url = url
        self.connector = connector
        self.writer = BatchWriter(connector)
        self.signal = ChangeSignal(connector.stamp)
        self.activity = ChangeSignal(connector.stamp)
        """Wakes at every write, ``signal`` at those that may end a rollout."""

    def with_project(self, project: str) -> Self:
        """Return a handle for another project; see ``LightningStore``."""
        handle = copy.copy(self)
        handle.project = project
        return handle

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch of the pipeline; see ``LightningStore``."""
        result = self.writer.write(batch)
        if batch.ends:
            self.signal.notify()
        self.activity.notify()
        return result

    def after_fork(self) -> None:
        """Make the store usable in a forked child; see ``LightningStore``."""
        self.connector.after_fork()
        self.writer.after_fork()
        self.signal = ChangeSignal(self.connector.stamp)
        self.activity = ChangeSignal(self.connector.stamp)

    def close(self) -> None:
        """Close the connections; see ``LightningStore``."""
        self.connector.close()

    async def fetch(self, query: str, parameters: Sequence[object]) -> list[Row]:
        """Return the rows of a named query, after overdue attempts were dealt with."""
        return await self._look(lambda transaction: transaction.fetch(query, parameters))

    async def _look(self, work: Callable[[Transaction], T]) -> T:
        """Do *work*, which only reads, after overdue attempts were dealt with."""

        def look() -> T:
            """Read; in a transaction that writes only where an attempt is overdue."""
            with self.connector.read() as transaction:
                if self.connector.is_read_only or not transaction.fetch("is_any_due", (now_ns(),)):
                    return work(transaction)
            return self.changed_by(work)

        return await asyncio.to_thread(look)

    async def fetch_one(self, query: str, parameters: Sequence[object]) -> Row | None:
        """Return the first row of a named query, or None."""
        found = await self.fetch(query, parameters)
        return found[0] if found else None

    async def change(self, work: Callable[[Transaction], T]) -> T:
        """Do *work* in a writing transaction, after overdue attempts were dealt with, and wake who waits."""
        return await asyncio.to_thread(self.changed_by, work)

    def changed_by(self, work: Callable[[Transaction], T]) -> T:
        """Do *work* as ``change`` does, on this thread."""
        with self.connector.write() as transaction:
            changes.retire_overdue(transaction, now_ns())
            result = work(transaction)
        self.signal.notify()
        self.activity.notify()
        return result
