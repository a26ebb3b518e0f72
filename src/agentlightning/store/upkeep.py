"""Looking after the file of an SQLite store: backup while others write, restore, check, compaction.

All of it works on the file; nothing here is needed to read or write a store.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from agentlightning._internal.private import private_folder
from agentlightning.errors import StoreCorruptError, StoreUnavailableError, StoreVersionError
from agentlightning.store.pack import to_json
from agentlightning.store.sql.connector import migrations
from agentlightning.store.sql.integrity import DAMAGE, damaged_sources, damaged_spans
from agentlightning.store.sql.sqlite import APPLICATION_ID
from agentlightning.types.core import AttemptStatus, RolloutStatus

if TYPE_CHECKING:
    from collections.abc import Generator

_PAGES_PER_STEP = 1000
_MOST_NAMED = 50
"""Damaged spans that a check names; the rest it counts."""
_CHECKSUMS_SINCE = 3
"""First schema version whose spans have a checksum."""
_REWINDS_SINCE = 4
"""First schema version that notes when places of rows are given again."""
_PLACES = "SELECT max(rowid), count(*) FROM spans UNION ALL SELECT max(rowid), count(*) FROM rollouts"
_SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Verdict:
    """What a check found."""

    problems: tuple[str, ...]
    """Empty for a sound store."""
    rollouts: int = 0
    spans: int = 0


def verify(path: Path) -> Verdict:
    """Check a store thoroughly: the database's structure, every span's checksum, that all belongs together. Only reads.

    A damaged span is named by its ids and its rollout; a row that a release without checksums wrote is taken as it is.
    What made a span (process, resource, scope) has its hash as its number. Rollouts and attempts, which change while
    they run, have no checksum: they have to be readable.

    Raises:
        StoreUnavailableError: There is no such file.
        StoreCorruptError: It is no store of ours.
        StoreVersionError: It was written by a newer release.
    """
    with contextlib.closing(_open(path)) as connection:
        problems = list(_structure(connection))
        is_structure_sound = not problems
        rollouts = spans = 0
        try:
            problems += damaged_spans(connection, limit=_MOST_NAMED)
            problems += damaged_sources(connection, limit=_MOST_NAMED)
            if is_structure_sound:
                problems += _loose_ends(connection)
            rollouts = connection.execute("SELECT count(*) FROM rollouts").fetchone()[0]
            spans = connection.execute("SELECT count(*) FROM spans").fetchone()[0]
        except DAMAGE as error:
            problems.append(str(error))
    return Verdict(tuple(problems), rollouts, spans)


_CHECKS = {
    "spans without a source": "SELECT count(*) FROM spans s WHERE NOT EXISTS "
    "(SELECT 1 FROM sources o WHERE o.source_id = s.source_id)",
    "spans without a rollout": "SELECT count(*) FROM (SELECT DISTINCT rollout_id FROM spans) s WHERE NOT EXISTS "
    "(SELECT 1 FROM rollouts r WHERE r.rollout_id = s.rollout_id)",
    "attempts without a rollout": "SELECT count(*) FROM attempts a WHERE NOT EXISTS "
    "(SELECT 1 FROM rollouts r WHERE r.rollout_id = a.rollout_id)",
    "rollouts whose place in the queue does not fit their status": "SELECT count(*) FROM rollouts "
    "WHERE (queue_place IS NOT NULL) <> (status IN ('queuing', 'requeuing'))",
}

_UNREADABLE = {
    "rollout": "SELECT rollout_id FROM rollouts WHERE NOT (json_valid(input) AND json_valid(config) AND "
    "json_valid(metadata) AND status IN (SELECT value FROM json_each(:statuses)) AND typeof(start_ns) = 'integer') "
    "LIMIT :most",
    "attempt": "SELECT attempt_id || ' of rollout ' || rollout_id FROM attempts WHERE NOT (json_valid(metadata) AND "
    "status IN (SELECT value FROM json_each(:statuses)) AND typeof(start_ns) = 'integer') LIMIT :most",
    "span": "SELECT span_id || ' of trace ' || trace_id || ' in rollout ' || rollout_id FROM spans WHERE crc IS NULL "
    "AND NOT (json_valid(attributes) AND json_valid(facts) AND json_valid(events) AND json_valid(links)) LIMIT :most",
}
"""Rows without a checksum that no reader can make sense of."""

_STATUSES = to_json([*get_args(RolloutStatus), *get_args(AttemptStatus)])


def _structure(connection: sqlite3.Connection) -> list[str]:
    """Return what SQLite finds wrong; on a badly damaged page its check ends with an error instead of a list."""
    try:
        found = connection.execute("PRAGMA integrity_check(20)").fetchall()
    except DAMAGE as error:
        return [str(error)]
    return [row[0] for row in found if row[0] != "ok"]


def _loose_ends(connection: sqlite3.Connection) -> list[str]:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    checks = [check for check in _CHECKS.items() if version > 1 or "queue_place" not in check[1]]
    counted = {what: connection.execute(query).fetchone()[0] for what, query in checks}
    found = [f"{count} {what}" for what, count in counted.items() if count]
    for what, query in _UNREADABLE.items():
        text = query if version >= _CHECKSUMS_SINCE else query.replace("crc IS NULL", "1")
        rows = connection.execute(text, {"statuses": _STATUSES, "most": _MOST_NAMED})
        found += [f"{what} {name} is damaged" for (name,) in rows]
    return found


def backup(path: Path, target: Path) -> int:
    """Copy the store at *path* to *target* while others write, and return the size of the copy in bytes.

    The copy holds all that was committed when it began; it appears under its name when it is complete and on the disk.

    Raises:
        StoreUnavailableError: *target* exists, or cannot be written.
        StoreError: *path* is no store that this release can read.
    """
    if target.exists():
        msg = f"{target} exists; name another file"
        raise StoreUnavailableError(msg)
    with contextlib.closing(_open(path)) as source:
        return _copy(source, target)


def restore(saved: Path, path: Path) -> Verdict:
    """Put the backup *saved* in the place of the store at *path*, in one step; the backup stays.

    Raises:
        StoreCorruptError: The backup is damaged; nothing was changed.
        StoreUnavailableError: A program has the store open, or a file cannot be written; nothing was changed.
        StoreError: The backup is no store that this release can read.
    """
    verdict = verify(saved)
    if verdict.problems:
        msg = f"the backup {saved} is damaged and was not restored: {verdict.problems[0]}"
        raise StoreCorruptError(msg)
    with _alone(path):
        pass  # before anything is copied
    private_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        with contextlib.closing(_open(saved)) as source:
            _copy(source, fresh)
        # Whoever opens the store meanwhile waits for the lock, then sees that the file is another one.
        with _alone(path):
            fresh.replace(path)
            for suffix in _SIDE_FILES:  # they belong to the file that was replaced
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    return verdict


def vacuum(path: Path) -> tuple[int, int]:
    """Give back the room of what was deleted; return the size in bytes before and after. Writers wait meanwhile."""
    with contextlib.closing(_open(path, writing=True)) as connection:
        before = path.stat().st_size
        try:
            connection.execute("DELETE FROM sources WHERE source_id NOT IN (SELECT source_id FROM spans)")
            places = connection.execute(_PLACES).fetchall()
            connection.execute("VACUUM")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if connection.execute(_PLACES).fetchall() != places and version >= _REWINDS_SINCE:
                # Not seen with any SQLite, but not promised by it: who follows the store begins anew.
                connection.execute("INSERT INTO rewinds (span_place, rollout_place) VALUES (0, 0)")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError as error:
            msg = f"cannot compact {path}: {error}"
            raise StoreUnavailableError(msg) from error
    return before, path.stat().st_size


@contextlib.contextmanager
def read_only(path: Path) -> Generator[sqlite3.Connection, None, None]:
    """Give a connection that reads and leaves the folder as it is: no file appears beside it, nothing is migrated.

    Raises:
        StoreUnavailableError: There is no such file.
        StoreCorruptError: It is no store of ours, or what is read within the context is damaged.
        StoreVersionError: It was written by a newer release.
    """
    with contextlib.closing(_open(path, leaves_folder=True)) as connection:
        try:
            yield connection
        except DAMAGE as error:
            msg = f"{path} cannot be read: {error}; 'agl store verify' names what is damaged"
            raise StoreCorruptError(msg) from error


def _open(path: Path, *, writing: bool = False, leaves_folder: bool = False) -> sqlite3.Connection:
    if not path.is_file():
        msg = f"there is no store at {path}"
        raise StoreUnavailableError(msg)
    mode = "mode=rw" if writing else "mode=ro"
    is_still = leaves_folder or not os.access(path.parent, os.W_OK)
    if not writing and is_still and not path.with_name(path.name + "-wal").exists():
        mode = "immutable=1"  # SQLite would make its log and the log's index there
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=30, isolation_level=None)
    except sqlite3.OperationalError as error:
        msg = f"cannot open {path}: {error if os.access(path, os.R_OK) else 'this user may not read it'}"
        raise StoreUnavailableError(msg) from error
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.OperationalError as error:
        connection.close()
        msg = f"cannot {'write' if writing else 'read'} {path}: {error}"
        raise StoreUnavailableError(msg) from error
    except DAMAGE as error:
        connection.close()
        msg = f"{path} is damaged or no Agent Lightning store ({error})"
        raise StoreCorruptError(msg) from error
    if application != APPLICATION_ID:
        connection.close()
        msg = f"{path} is no Agent Lightning store"
        raise StoreCorruptError(msg)
    newest = migrations()[-1][0]
    if version > newest:
        connection.close()
        msg = (
            f"{path} was written by a newer release (schema {version}, this one knows {newest}); upgrade agentlightning"
        )
        raise StoreVersionError(msg)
    return connection


def _copy(source: sqlite3.Connection, target: Path) -> int:
    """Copy a database to a new file of mode 0600 that appears when it is complete."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        # One reading transaction: the copy is of one moment, and writers go on in the log.
        source.execute("BEGIN")
        with contextlib.closing(sqlite3.connect(temporary)) as copy:
            source.backup(copy, pages=_PAGES_PER_STEP)
            copy.execute("PRAGMA journal_mode = DELETE")
        source.execute("ROLLBACK")
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except (OSError, sqlite3.Error) as error:
        msg = f"cannot write {target}: {error}"
        raise StoreUnavailableError(msg) from error
    finally:
        for suffix in ("", *_SIDE_FILES):  # of a copy for which there was no room, its journal stays too
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
    return target.stat().st_size


@contextlib.contextmanager
def _alone(path: Path) -> Generator[None, None, None]:
    """Keep everybody else out of the store at *path*, which may be missing or damaged.

    Raises:
        StoreUnavailableError: Somebody has it open.
    """
    if not path.exists():
        yield
        return
    with contextlib.closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as connection:
        try:
            # Leaving write-ahead logging needs the file for oneself, which no other lock of WAL shows.
            mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
            if mode == "delete":
                connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            msg = f"a program has {path} open; end it first ({error})"
            raise StoreUnavailableError(msg) from error
        except sqlite3.DatabaseError:
            mode = "delete"  # what is damaged may be replaced
        if mode != "delete":
            msg = f"a program has {path} open; end it first"
            raise StoreUnavailableError(msg)
        yield
