"""The SQLite connector: one file, WAL, every commit on the disk before it counts.

Rules that experiments taught: a writing transaction begins IMMEDIATE, else two readers that want to write get BUSY at
once; a batch is one statement, because sqlite3 gives up the GIL for every row and a computing thread gives it back
5 ms later; the file is made 0600 before SQLite opens it, and the -wal and -shm files inherit that.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import re
import secrets
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning._internal.failing import Telling
from agentlightning._internal.fork import rest_at_fork
from agentlightning._internal.private import private_folder
from agentlightning.errors import (
    QueryTimeoutError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)
from agentlightning.store.sql.connector import migrations, named_queries

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from agentlightning.store.sql.connector import Row

APPLICATION_ID = 0x41474C31
"""``AGL1`` in the file's header: tells our files from other SQLite files."""

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for the others."""

_FORK_WAIT_S = 1.0
"""How long a fork waits for a transaction of another thread."""

_ASK_AGAIN_S = 0.0005, 0.004
"""Pause between two tries to become the writer; random, so that nobody is always too late."""
_STEPS_PER_LOOK = 50_000
"""Steps of SQLite's machine, some milliseconds, between two looks at the clock."""
_ROWS_PER_STATEMENT = 500
_KEPT_STATEMENTS = 24
"""Prepared statements that a connection keeps: one for 500 spans takes 1 MB, and each number of rows is another one.
With 256 a program of 2,000 spans a second grew by 100 MB in 40 s, with 24 by nothing; all that a batch needs are 10."""
_MAX_VARIABLES = 32_766 if sqlite3.sqlite_version_info >= (3, 32) else 999
_NUMBERED = re.compile(r"\?[0-9]")
_PRAGMAS = "PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;"


class SqliteConnector:
    """Connector to one SQLite file, made when it is missing. Thread-safe; after a fork the child opens its own."""

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        """Open *path* and bring its schema to this release's.

        Args:
            path: The file. A missing one is made with mode 0600, its missing directories with 0700.
            create: False to refuse a missing file, for commands that only read. Then a file where nothing may be
                written can be read too, unless a log beside it has still to be worked in.

        Raises:
            StoreUnavailableError: The file cannot be made, opened or written.
            StoreCorruptError: The file is no store of ours, or is damaged.
            StoreVersionError: The file was written by a newer release.
        """
        self.path = Path(path).expanduser().absolute()
        self._log = self.path.with_name(self.path.name + "-wal")
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._generation = ""
        self._is_resting = False
        self._is_checked = False
        rest_at_fork(self)
        with self._lock, _translated(self.path):
            self._make_file(create=create)
            self.is_read_only = not (create or self._may_be_written())
            self._check_and_migrate()
            self._is_checked = True
            self._connection(writing=True).execute("PRAGMA busy_timeout = 0")

    def _make_file(self, *, create: bool) -> None:
        if self.path.exists():
            return
        if not create:
            msg = f"there is no store at {self.path}; record something with 'agl run' or name another with --store"
            raise StoreUnavailableError(msg)
        private_folder(self.path.parent)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    is_read_only = False
    """Whether nothing may be written where the file lies."""

    def _may_be_written(self) -> bool:
        return os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)

    def _connect_read_only(self) -> sqlite3.Connection:
        # Without a log nobody is writing, and SQLite need not make the index of one.
        has_log = self._log.exists() and self._log.stat().st_size > 0
        uri = f"{self.path.as_uri()}?{'mode=ro' if has_log else 'immutable=1'}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            _hold(connection)
        except sqlite3.OperationalError as error:
            connection.close()
            msg = (
                f"{self.path} has a log ({self._log.name}) that must be worked in before it can be read, and nothing "
                "may be written there; copy both files to where it may"
            )
            raise StoreUnavailableError(msg) from error
        return connection

    def _connect(self) -> sqlite3.Connection:
        """Open the file and hold it: with write-ahead logging, who has read keeps a lock that a restore respects."""
        if self.is_read_only:
            return self._connect_read_only()
        while True:
            before = _identity(self.path)
            connection = sqlite3.connect(
                self.path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=_KEPT_STATEMENTS,
            )
            connection.executescript(_PRAGMAS)
            _hold(connection)
            if _identity(self.path) == before:
                return connection
            connection.close()  # a restore has put another file in its place meanwhile

    def _check_and_migrate(self) -> None:
        connection = self._connection(writing=True)
        version, application, tables = _header(connection)
        newest = migrations()[-1][0]
        if application != APPLICATION_ID:
            if tables:
                msg = f"{self.path} is a database of another program; name another file with --store or AGL_STORE"
                raise StoreCorruptError(msg)
        elif version == newest:
            is_backup = connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"  # that was put in place
            if is_backup and not self.is_read_only:
                self._set_journal(connection)
                _hold(connection)
            return
        elif version > newest:
            msg = (
                f"{self.path} was written by a newer release (schema {version}, this one knows {newest}); "
                "upgrade agentlightning or name another file with --store or AGL_STORE"
            )
            raise StoreVersionError(msg)
        if self.is_read_only:
            msg = (
                f"{self.path} was written by an older release (schema {version}, this one needs {newest}) and cannot "
                "be brought up to date where nothing may be written; copy it to where it may"
            )
            raise StoreVersionError(msg)
        self._set_journal(connection)
        with self.write():
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            for number, script in migrations():
                if number > version:  # another process may have migrated while this one waited
                    for statement in _statements(script):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {number}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _set_journal(self, connection: sqlite3.Connection) -> None:
        """Choose how commits reach the disk."""
        _set_wal(connection)

    def _connection(self, *, writing: bool) -> sqlite3.Connection:
        if self._pid != os.getpid():
            self._abandon()
        connection = self._writer if writing else self._reader
        if connection is None:
            connection = self._connect()
            self._generation = secrets.token_hex(4)
            if writing:
                self._writer = connection
                if self._is_checked:
                    # We wait ourselves, see _begin_immediate; before that SQLite waits while others make the file.
                    connection.execute("PRAGMA busy_timeout = 0")
            else:
                self._reader = connection
        return connection

    def _abandon(self) -> None:
        """Forget the parent's connections in a forked child without closing them.

        SQLite forbids even closing them there: the child would check in the parent's log. An extra reference that is
        never given back keeps the garbage collector away from them.
        """
        for connection in (self._writer, self._reader):
            if connection is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self._writer = self._reader = None
        self._pid = os.getpid()

    def before_fork(self) -> None:
        """Close the connections, so that a child knows of none.

        SQLite keeps in memory which locks its process holds on a file. A child that inherits this believes that it
        holds them too, and takes none: then whoever closes the file last in its eyes deletes the log into which the
        child goes on to write.
        """
        self._is_resting = self._lock.acquire(timeout=_FORK_WAIT_S)
        if self._is_resting and self._closes_at_fork:
            self.close()

    _closes_at_fork = True

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""
        if self._is_resting:
            self._is_resting = False
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Forget the lock, which may be another thread's of the parent."""
        self._is_resting = False
        self._lock = threading.RLock()

    def after_fork(self) -> None:
        """Make the connector usable in a child: another thread may have held the lock when the parent forked."""
        self._lock = threading.RLock()
        self._abandon()

    @contextmanager
    def write(self) -> Generator[SqliteTransaction, None, None]:
        """Begin a writing transaction; see ``Connector.write``."""
        if self.is_read_only:
            msg = f"nothing may be written where the store {self.path} lies; copy it to where it may"
            raise StoreUnavailableError(msg)
        with self._lock, _translated(self.path):
            connection = self._connection(writing=True)
            _begin_immediate(connection)
            with Telling(lambda _: _roll_back(connection)):
                transaction = SqliteTransaction(connection)
                yield transaction
                self._before_commit(transaction)
                connection.execute("COMMIT")

    def _before_commit(self, transaction: SqliteTransaction) -> None:
        """Look at a transaction that is about to be committed; what this raises rolls it back."""

    @contextmanager
    def read(self) -> Generator[SqliteTransaction, None, None]:
        """Begin a reading transaction; see ``Connector.read``."""
        with self._lock, _translated(self.path):
            connection = self._connection(writing=False)
            connection.execute("BEGIN")
            try:
                with self._limited(connection):
                    yield SqliteTransaction(connection)
            finally:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    query_timeout_s: float | None = None
    """Longest time of a reading transaction; None: as long as it takes. A server that others ask sets it."""

    @contextmanager
    def _limited(self, connection: sqlite3.Connection) -> Generator[None, None, None]:
        if self.query_timeout_s is None:
            yield
            return
        deadline = time.monotonic() + self.query_timeout_s
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_PER_LOOK)
        try:
            yield
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise
            msg = f"the query took longer than {self.query_timeout_s:g} s; ask for less at once"
            raise QueryTimeoutError(msg) from error
        finally:
            connection.set_progress_handler(None, 0)

    def stamp(self) -> object:
        """Return size and time of the last change of the file and its log; see ``Connector.stamp``."""
        return _stamp(self.path), _stamp(self._log)

    def generation(self) -> str:
        """Return a text that changes when connections are opened anew; see ``Connector.generation``."""
        return self._generation

    def size_bytes(self) -> int:
        """Return the size of the file and its log."""
        files = (self.path, self._log)
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Close the connections; the last process to do so folds the log into the file."""
        with self._lock:
            if self._pid != os.getpid():
                self._abandon()
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._writer = self._reader = None


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


class SqliteTransaction:
    """Named queries on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Run on *connection*, whose transaction is under way."""
        self._connection = connection

    def run(self, query: str, parameters: Sequence[object] = ()) -> int:
        """Run a named query; see ``Transaction.run``."""
        return self._connection.execute(named_queries()[query], _bindings(query, parameters)).rowcount

    def run_rows(self, query: str, rows: Sequence[Sequence[object]]) -> int:
        """Run a named query over rows; see ``Transaction.run_rows``."""
        if not rows:
            return 0
        width = len(rows[0])
        step = min(_ROWS_PER_STATEMENT, _MAX_VARIABLES // width)
        changed = 0
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            statement = _with_rows(query, len(part), width)
            changed += self._connection.execute(statement, [value for row in part for value in row]).rowcount
        return changed

    def fetch(self, query: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a named query; see ``Transaction.fetch``."""
        return self._connection.execute(named_queries()[query], _bindings(query, parameters)).fetchall()


def _bindings(query: str, parameters: Sequence[object]) -> Sequence[object] | dict[str, object]:
    """Return the parameters of a query as sqlite3 wants them: ``?1`` is a name to it, for which it wants a dict."""
    if query not in _numbered_queries():
        return parameters
    return {str(number): value for number, value in enumerate(parameters, 1)}


@functools.cache
def _numbered_queries() -> frozenset[str]:
    return frozenset(name for name, text in named_queries().items() if _NUMBERED.search(text))


def _with_rows(query: str, count: int, width: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return named_queries()[query].replace("{rows}", ",".join([row] * count))


def _statements(script: str) -> list[str]:
    """Split a migration into statements; ``executescript`` would commit the transaction that it runs in."""
    statements: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements


def _header(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Return schema version, application id and number of tables, all of one moment: others may be making the file."""
    connection.execute("BEGIN")
    try:
        queries = ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
        version, application, tables = (int(connection.execute(query).fetchone()[0]) for query in queries)
    finally:
        connection.execute("ROLLBACK")
    return version, application, tables


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at *path* from another one that takes its place, None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _hold(connection: sqlite3.Connection) -> None:
    """Read once: opening a file takes no lock, reading it does, and write-ahead logging keeps it."""
    connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()


def _set_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL; SQLite does not wait when several processes do so at once, hence the loop."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                msg = f"SQLite refuses write-ahead logging here (mode {mode}): the file system lacks shared memory"
                raise StoreUnavailableError(msg)
            return


def _roll_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _begin_immediate(connection: sqlite3.Connection) -> None:
    """Begin a writing transaction, waiting for the other writers.

    SQLite's own waiting sleeps longer and longer, up to 100 ms, so that who waits longest gets the file last: of 16
    processes one waited for 8 s. Here everybody asks equally often.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(*_ASK_AGAIN_S))  # noqa: S311 - no secret
        else:
            return


@contextmanager
def _translated(path: Path) -> Generator[None, None, None]:
    """Turn errors of SQLite and of the file system into ours, with the file's name and what to do."""
    try:
        yield
    except StoreError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _store_error(path, error) from error
    except OSError as error:
        msg = f"cannot open the store {path}: {error.strerror}; name another file with --store or AGL_STORE"
        raise StoreUnavailableError(msg) from error


def _store_error(path: Path, error: sqlite3.DatabaseError | UnicodeDecodeError) -> StoreError:
    text = str(error)
    advice = "name another file with --store or AGL_STORE"
    # Of a damaged file the message itself, or a text column, may be no text.
    is_no_text = isinstance(error, UnicodeDecodeError) or "Could not decode" in text
    if is_no_text or "not a database" in text or "malformed" in text:
        return StoreCorruptError(f"{path} is damaged or no Agent Lightning store ({text}); move it away or {advice}")
    if "full" in text:
        return StoreFullError(f"no space is left for the store {path} ({text}); free some space or {advice}")
    if "no such table" in text or "no such column" in text:
        return StoreCorruptError(f"{path} lacks a part of its schema ({text}); move it away or {advice}")
    return StoreUnavailableError(f"cannot use the store {path}: {text}; {advice}")


def default_path(data_dir: str | Path) -> Path:
    """Return the path of the default store in a data directory."""
    return Path(data_dir) / "agentlightning.db"
