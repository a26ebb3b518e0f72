"""A store in this process's memory: an SQLite database without a file, bounded, for tests and threads.

The same queries as the default store, so the same answers; what ends with the process is only where they are kept.
"""

from __future__ import annotations

import logging
import sqlite3
import weakref
from typing import TYPE_CHECKING

import msgspec

from agentlightning._internal.clock import NS_PER_S, now_ns
from agentlightning.errors import StoreFullError
from agentlightning.store.sql import changes
from agentlightning.store.sql.manager import SqlLightningStore
from agentlightning.store.sql.sqlite import SqliteConnector, SqliteTransaction

if TYPE_CHECKING:
    from agentlightning.types.query import StoreStatistics

log = logging.getLogger("agentlightning.store")

DEFAULT_MAX_BYTES = 256 * 2**20
_ROOM_AFTER_EVICTION = 0.9
_QUIET_NS = 600 * NS_PER_S
"""An implicit rollout, whose end nobody announces, counts as finished when it began this long ago."""


class InMemoryLightningStore(SqlLightningStore):
    """A bounded store in memory. Thread-safe; a forked child begins with an empty one.

    When it is full, the oldest finished rollouts go, with one warning in the log for each time and counts in
    ``statistics``. What is waiting or at work never goes: without anything finished, a write is a ``StoreFullError``.
    Inputs and metadata come back as JSON holds them. ``close`` keeps the data.
    """

    def __init__(self, *, project: str | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Make an empty store that holds at most *max_bytes* bytes; *project* defaults to ``AGL_PROJECT``."""
        self._memory = _MemoryConnector(max_bytes)
        super().__init__(self._memory, project=project)

    async def statistics(self) -> StoreStatistics:
        """Count what the store holds and what it threw away; see ``LightningStore``."""
        counted = await super().statistics()
        return msgspec.structs.replace(
            counted, evicted_rollouts=self._memory.evicted_rollouts, evicted_spans=self._memory.evicted_spans
        )


class _MemoryConnector(SqliteConnector):
    """One connection to a database in memory, for readers and the writer alike."""

    _closes_at_fork = False  # with its connection the database would be gone

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.evicted_rollouts = 0
        self.evicted_spans = 0
        super().__init__("memory")

    def _make_file(self, *, create: bool) -> None:
        """Make nothing: there is no file."""

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=256)
        # Nobody closes a store whose data end with it; since Python 3.13 a connection complains about that.
        weakref.finalize(self, connection.close)
        return connection

    def _set_journal(self, connection: sqlite3.Connection) -> None:
        """Leave the journal in memory."""

    def _connection(self, *, writing: bool) -> sqlite3.Connection:
        _ = writing
        return super()._connection(writing=True)

    def after_fork(self) -> None:
        """Begin anew in a child; the parent's data are the parent's."""
        super().after_fork()
        self._check_and_migrate()

    def _before_commit(self, transaction: SqliteTransaction) -> None:
        if self._used() <= self._max_bytes:
            return
        rollouts = spans = 0
        while self._used() > self._max_bytes * _ROOM_AFTER_EVICTION:
            oldest = transaction.fetch("evictable", (now_ns() - _QUIET_NS,))
            if not oldest:
                break
            gone = changes.delete_rollouts(transaction, [row[0] for row in oldest])
            rollouts, spans = rollouts + gone[0], spans + gone[1]
        if self._used() > self._max_bytes:
            msg = f"the store in memory is full ({self._max_bytes} bytes) and nothing in it is finished; use a file"
            raise StoreFullError(msg)
        self.evicted_rollouts += rollouts
        self.evicted_spans += spans
        log.warning("the store in memory was full: the oldest %d rollouts with %d spans are gone", rollouts, spans)

    def _used(self) -> int:
        connection = self._connection(writing=True)
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def stamp(self) -> object:
        """Return always the same: no other process writes here."""
        return None

    def size_bytes(self) -> int:
        """Return how much memory the data take."""
        with self._lock:
            return self._used()

    def close(self) -> None:
        """Keep the data; they are gone when nobody holds the store any more."""
