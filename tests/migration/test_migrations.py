"""Stores of other releases: older ones are brought up to date with all that they hold, newer ones are left alone."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agentlightning.errors import StoreCorruptError, StoreVersionError
from agentlightning.store import SqliteLightningStore
from agentlightning.store.sql.connector import migrations
from agentlightning.store.sql.sqlite import APPLICATION_ID
from agentlightning.store.upkeep import Verdict, verify
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from pathlib import Path


def make_version(path: Path, version: int) -> None:
    """Make a store as the release with schema *version* did."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    for number, script in migrations():
        if number <= version:
            connection.executescript(script)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def schema_of(path: Path) -> list[tuple[str, ...]]:
    """Return every table and index with its definition."""
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    connection.close()
    return found


FIRST_RELEASE = """
INSERT INTO projects VALUES ('default', 1);
INSERT INTO rollouts (rollout_id, project, status, start_ns, last_sequence, metadata, input)
VALUES ('ro-old', 'default', 'running', 5000000000, 1, '{"a":1}', '"task"');
INSERT INTO attempts (attempt_id, rollout_id, number, status, start_ns) VALUES ('at-old', 'ro-old', 1, 'running', 6);
INSERT INTO sources VALUES (9170037829758996089, 'host/1/2', 'scope', '1', '', '{"service.name":"old"}');
INSERT INTO spans VALUES ('00000000000000000000000000000001', '0000000000000002', NULL, 'ro-old', 'at-old', 1, 'work',
    'INTERNAL', 7, 8, 'OK', NULL, 9170037829758996089, '{}', '', '[]', '[]', '{"x":[1,2]}', NULL);
INSERT INTO resources VALUES ('rs-old', 'default', 9, '{}');
"""


CHECKSUMS_SINCE = 3
"""The schema that gave spans a checksum."""
EARLIER = [number for number, _ in migrations()][:-1]


@pytest.mark.parametrize("version", EARLIER)
async def test_a_store_of_an_earlier_form_keeps_everything(tmp_path: Path, version: int) -> None:
    """A store of every earlier schema is migrated in place: every row reads as before, and it can be written."""
    path = tmp_path / "old.db"
    fill_version(path, version)
    before = rows_of(path)
    SqliteLightningStore(path).close()
    after = rows_of(path)
    for table, rows in before.items():
        assert [{name: row[name] for name in old} for row, old in zip(after[table], rows, strict=True)] == rows
    assert verify(path) == Verdict((), 1, 1)
    store = SqliteLightningStore(path)
    rollout = await store.get_rollout_by_id("ro-old")
    assert rollout is not None
    assert (rollout.status, rollout.input, rollout.metadata, rollout.start_time) == ("running", "task", {"a": 1}, 5.0)
    (span,) = await store.query_spans("ro-old", "latest")
    assert (span.name, span.attributes, span.resource.attributes) == ("work", {"x": [1, 2]}, {"service.name": "old"})
    assert await store.get_resources_by_id("rs-old") is not None
    assert (await store.update_attempt("ro-old", "latest", status="succeeded")).status == "succeeded"
    assert (await store.enqueue_rollout("new")).status == "queuing"
    store.close()


def fill_version(path: Path, version: int) -> None:
    """Make a store as the release with schema *version* did, with rows; a new column of a table is empty."""
    make_version(path, version)
    connection = sqlite3.connect(path)
    script = FIRST_RELEASE
    if version >= CHECKSUMS_SINCE:
        script = script.replace("'{\"x\":[1,2]}', NULL)", "'{\"x\":[1,2]}', NULL, NULL)")
    connection.executescript(script)
    connection.close()


def rows_of(path: Path) -> dict[str, list[dict[str, object]]]:
    """Return every row of every table, by column."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    found = {
        name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY rowid")]
        for (name,) in tables.fetchall()
    }
    connection.close()
    return found


async def test_old_rows_need_no_checksum(tmp_path: Path) -> None:
    """Rows of the schema before checksums pass a check, before and after the migration; new rows get one."""
    path = tmp_path / "old.db"
    fill_version(path, 2)
    assert verify(path) == Verdict((), 1, 1)
    store = SqliteLightningStore(path)
    store.write_batch(WriteBatch(spans=[record_of("ro-old", "at-old", 2)]))
    assert [span.sequence_id for span in await store.query_spans("ro-old")] == [1, 2]
    store.close()
    assert verify(path) == Verdict((), 1, 2)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT crc IS NULL FROM spans ORDER BY sequence_id").fetchall() == [(1,), (0,)]
    connection.close()


_OPENER = """
import asyncio, sys
from agentlightning.store import SqliteLightningStore
sys.stdin.readline()
store = SqliteLightningStore(sys.argv[1])
asyncio.run(store.enqueue_rollout("new"))
store.close()
"""


@pytest.mark.parametrize("version", [1, 2])
def test_many_processes_may_migrate_at_once(tmp_path: Path, version: int) -> None:
    """When several processes open a store of an older release at the same moment, one migrates, and all go on."""
    path = tmp_path / "old.db"
    fill_version(path, version)
    command = [sys.executable, "-c", _OPENER, str(path)]
    openers = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write(b"\n")
        opener.stdin.flush()
    assert [(opener.communicate(timeout=60)[1], opener.returncode) for opener in openers] == [(b"", 0)] * 3
    assert verify(path) == Verdict((), 4, 1)


def test_the_whole_schema_is_all_migrations(tmp_path: Path) -> None:
    """A new store has the schema that migrating from every version gives, and the numbers have no gap."""
    numbers = [number for number, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    SqliteLightningStore(tmp_path / "new.db").close()
    for version in numbers:
        path = tmp_path / f"{version}.db"
        make_version(path, version)
        SqliteLightningStore(path).close()
        assert schema_of(path) == schema_of(tmp_path / "new.db")


def test_a_newer_store_is_refused_untouched(tmp_path: Path) -> None:
    """A store of a newer release is refused with one sentence, and not a byte of it changes."""
    path = tmp_path / "newer.db"
    SqliteLightningStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(StoreVersionError, match="newer release"):
        SqliteLightningStore(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("content", [b"no database at all, just text " * 50, None])
def test_a_foreign_file_is_refused_untouched(tmp_path: Path, content: bytes | None) -> None:
    """A file that is no store of ours is refused with its name, and left as it is."""
    path = tmp_path / "foreign.db"
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE theirs (x)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError, match=r"foreign\.db"):
        SqliteLightningStore(path)
    assert path.read_bytes() == before
