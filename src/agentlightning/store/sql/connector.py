"""What a database has to offer so that the manager can keep a store in it, and the named queries.

PostgreSQL will be a second connector; nothing else has to change for it.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    Row = tuple[Any, ...]

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_FILES = ("write", "read", "lifecycle", "follow", "project")


class Transaction(Protocol):
    """A transaction that is under way; commits when its block ends, rolls back when it raises."""

    def run(self, query: str, parameters: Sequence[object] = ()) -> int:
        """Run the named *query* and return how many rows it changed."""
        ...

    def run_rows(self, query: str, rows: Sequence[Sequence[object]]) -> int:
        """Run the named *query* whose ``{rows}`` stands for *rows*, in as few statements as the database allows."""
        ...

    def fetch(self, query: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run the named *query* and return all its rows."""
        ...


class Connector(Protocol):
    """A database with the schema of this release. Thread-safe; usable again in a child after a fork."""

    query_timeout_s: float | None
    """Longest time of a reading transaction, whose queries are a ``QueryTimeoutError`` afterwards; None: no bound."""

    is_read_only: bool
    """Whether it can never be written."""

    def write(self) -> AbstractContextManager[Transaction]:
        """Begin a transaction that may change data; waits for other writers.

        Raises:
            StoreUnavailableError: The database cannot be written now.
        """
        ...

    def read(self) -> AbstractContextManager[Transaction]:
        """Begin a transaction that only reads, on one state of the data; never waits for writers."""
        ...

    def stamp(self) -> object:
        """Return a value that is another one after another process has written; costs microseconds, no query."""
        ...

    def generation(self) -> str:
        """Return a text that is another one for other connections: their versions cannot be compared."""
        ...

    def size_bytes(self) -> int:
        """Return how much room the data take."""
        ...

    def after_fork(self) -> None:
        """Make the connector usable in a forked child, without touching the parent's connections."""
        ...

    def close(self) -> None:
        """Give up the connections; a later call opens them again."""
        ...


@functools.lru_cache(maxsize=1)
def named_queries() -> dict[str, str]:
    """Return the text of every named query in ``queries/*.sql``."""
    table: dict[str, str] = {}
    for file in _FILES:
        text = resources.files("agentlightning.store.sql").joinpath(f"queries/{file}.sql").read_text("utf-8")
        parts = _NAME.split(text)
        table.update(zip(parts[1::2], (part.strip().rstrip(";") for part in parts[2::2]), strict=True))
    return table


def migrations() -> list[tuple[int, str]]:
    """Return number and text of every migration in ``migrations/NNNN_what.sql``, oldest first."""
    folder = resources.files("agentlightning.store.sql").joinpath("migrations")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return [(int(file.name[:4]), file.read_text("utf-8")) for file in files]
