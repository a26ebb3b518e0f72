"""Backup, restore, check, compaction and retention of a store's file, by the command line."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentlightning.cli.main import main
from agentlightning.store import SqliteLightningStore
from agentlightning.store.upkeep import vacuum, verify
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.change import BEGINNING
from agentlightning.types.record import WriteBatch
from agentlightning.types.tracer import Span


def agl(*arguments: str | Path) -> int:
    """Run a command and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def fill(store: SqliteLightningStore, rollouts: int, spans: int = 3) -> None:
    """Write finished rollouts."""

    async def work() -> None:
        for _ in range(rollouts):
            rollout = await store.start_rollout("task")
            ids = rollout.rollout_id, rollout.attempt.attempt_id
            store.write_batch(WriteBatch(spans=[record_of(*ids, n, attributes={"t": "x" * 500}) for n in range(spans)]))
            await store.update_attempt(*ids, status="succeeded")

    asyncio.run(work())


def spans_in(path: Path) -> int:
    """Return how many spans a file holds."""
    connection = sqlite3.connect(path)
    count: int = connection.execute("SELECT count(*) FROM spans").fetchone()[0]
    connection.close()
    return count


def test_a_backup_holds_all_that_was_committed_while_others_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backup made while a writer is at work is sound and holds every span acknowledged before it began."""
    path, target = tmp_path / "store.db", tmp_path / "copy.db"
    store = SqliteLightningStore(path)
    acknowledged = 0
    stop, began = threading.Event(), threading.Event()

    def write() -> None:
        nonlocal acknowledged
        while not stop.is_set():
            spans = [record_of("ro-1", "at-1", n, attributes={"t": "x" * 500}) for n in range(20)]
            acknowledged += store.write_batch(WriteBatch(spans=spans)).stored
            if acknowledged >= 200:
                began.set()

    writer = threading.Thread(target=write)
    writer.start()
    began.wait(10)
    before = acknowledged
    assert agl("store", "backup", target, "--store", path) == 0
    stop.set()
    writer.join()
    store.close()
    assert agl("store", "verify", "--store", target) == 0
    assert before <= spans_in(target) <= spans_in(path) == acknowledged
    assert target.stat().st_mode & 0o777 == 0o600
    assert agl("store", "backup", target, "--store", path) == 2
    assert "exists" in capsys.readouterr().err


def test_restore_swaps_a_sound_backup_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A restore is refused while the store is open and when the backup is damaged; else the store is the backup."""
    path, target = tmp_path / "store.db", tmp_path / "copy.db"
    store = SqliteLightningStore(path)
    fill(store, 2)
    assert agl("store", "backup", target, "--store", path) == 0
    fill(store, 1)
    assert agl("store", "restore", target, "--store", path) == 2
    assert "open" in capsys.readouterr().err
    fill(store, 1)
    store.close()
    assert spans_in(path) == 12
    damaged = tmp_path / "damaged.db"
    content = bytearray(target.read_bytes())
    content[4096:12_000] = b"\xff" * (12_000 - 4096)
    damaged.write_bytes(content)
    assert agl("store", "verify", "--store", damaged) in {1, 2}
    assert agl("store", "restore", damaged, "--store", path) == 2
    assert spans_in(path) == 12
    assert agl("store", "restore", target, "--store", path) == 0
    assert spans_in(path) == 6
    again = SqliteLightningStore(path)
    fill(again, 1)
    again.close()
    assert spans_in(path) == 9
    assert agl("store", "verify", "--store", path) == 0


_OPENED = """
import sys
from agentlightning.store.sql.writer import SqliteWriter
writer = SqliteWriter(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_restore_waits_for_nobody_and_surprises_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that has only opened the store, right after a restore too, keeps the next restore away."""
    path, saved = tmp_path / "store.db", tmp_path / "copy.db"
    store = SqliteLightningStore(path)
    fill(store, 1)
    store.close()
    assert agl("store", "backup", saved, "--store", path) == 0
    assert agl("store", "restore", saved, "--store", path) == 0
    command = [sys.executable, "-c", _OPENED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"open\n"
        capsys.readouterr()
        assert agl("store", "restore", saved, "--store", path) == 2
        assert "open; end it first" in capsys.readouterr().err
        program.communicate(b"\n", timeout=60)
    assert agl("store", "restore", saved, "--store", path) == 0


def test_who_opens_during_a_restore_gets_the_restored_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is opened while a restore swaps the files waits, and then writes to the file that is in place."""
    path, saved = tmp_path / "store.db", tmp_path / "copy.db"
    store = SqliteLightningStore(path)
    fill(store, 1)
    store.close()
    assert agl("store", "backup", saved, "--store", path) == 0
    opened: list[subprocess.Popen[str]] = []
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == path:  # the lock is held, the old file still in place
            command = [sys.executable, "-c", _LATE, str(path)]
            opened.append(subprocess.Popen(command, text=True, stdout=subprocess.PIPE))
            assert opened[0].stdout is not None
            assert opened[0].stdout.readline() == "opening\n"
            time.sleep(0.3)  # it has opened the old file, or will open the new one: both have to end well
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert agl("store", "restore", saved, "--store", path) == 0
    assert opened[0].wait(60) == 0
    opened[0].communicate()
    assert spans_in(path) == 4
    assert agl("store", "verify", "--store", path) == 0


_LATE = """
import sys
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch
from agentlightning.types.tracer import Span
print("opening", flush=True)
writer = SqliteWriter(sys.argv[1])
assert writer.write_batch(WriteBatch(spans=[record_of("ro-late", "at-late", 1)])).stored == 1
writer.close()
"""


def test_old_rollouts_go_and_the_room_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Retention deletes what is old beyond the newest so many, and compaction gives the room back."""
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    fill(store, 30, 20)
    assert agl("store", "prune", "--store", path, "--older-than", "1d", "--yes") == 0
    assert spans_in(path) == 600
    assert agl("store", "prune", "--store", path, "--keep", "2", "--older-than", "0s", "--yes") == 0
    store.close()
    assert spans_in(path) == 40
    before = path.stat().st_size
    assert agl("store", "vacuum", "--store", path) == 0
    assert path.stat().st_size < before / 3
    assert agl("store", "info", "--store", path) == 0
    assert "2 succeeded" in capsys.readouterr().out
    assert agl("store", "prune", "--store", path) == 2
    assert agl("store", "info", "--store", tmp_path / "none.db") == 2


def test_verify_names_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that belong to nothing are found, and the command ends with 1."""
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    fill(store, 1)
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM rollouts")
    connection.commit()
    connection.close()
    started = time.process_time()
    assert agl("store", "verify", "--store", path) == 1
    assert "without a rollout" in capsys.readouterr().out
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE spans SET attributes = replace(attributes, 'x', 'y') WHERE sequence_id = 2",
        "UPDATE spans SET name = cast(x'ff00' AS TEXT) WHERE sequence_id = 2",
        "UPDATE spans SET sequence_id = 9 WHERE sequence_id = 2",
        "UPDATE spans SET end_ns = end_ns + 1 WHERE sequence_id = 2",
        "UPDATE spans SET status_description = '' WHERE sequence_id = 2",
        "UPDATE spans SET crc = 'x' WHERE sequence_id = 2",
        "UPDATE spans SET packed = crc, crc = NULL WHERE sequence_id = 2",
    ],
)
def test_verify_names_the_span_that_was_changed(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A span that somebody changed in the file is named with its ids and its rollout, whatever column it was."""
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    fill(store, 1)
    store.close()
    assert agl("store", "verify", "--store", path) == 0
    connection = sqlite3.connect(path)
    trace_id, span_id, rollout_id = connection.execute(
        "SELECT trace_id, span_id, rollout_id FROM spans WHERE sequence_id = 2"
    ).fetchone()
    connection.execute(damage)
    connection.commit()
    connection.close()
    capsys.readouterr()
    assert agl("store", "verify", "--store", path) == 1
    shown = capsys.readouterr().out
    assert f"span {span_id} of trace {trace_id} in rollout {rollout_id} is damaged" in shown
    assert shown.count("is damaged") == 1


def test_verify_names_what_lies_on_a_broken_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that a disk changed are found, wherever they lie; a span that cannot be read is named by its rollout."""
    path, damaged = tmp_path / "store.db", tmp_path / "damaged.db"
    store = SqliteLightningStore(path)
    fill(store, 5, 20)
    store.close()
    content = path.read_bytes()
    payloads = [found.start() for found in re.finditer(b"x{500}", content)]
    assert len(payloads) == 100
    for payload in payloads[::20]:
        broken = bytearray(content)
        broken[payload + 100] ^= 1
        damaged.write_bytes(broken)
        assert agl("store", "verify", "--store", damaged) == 1
        assert capsys.readouterr().out.count("is damaged") == 1
        page = payload // 4096 * 4096
        broken[page : page + 4096] = b"\xff" * 4096
        damaged.write_bytes(broken)
        assert agl("store", "verify", "--store", damaged) == 1
        shown = capsys.readouterr().out
        assert re.search("span number [0-9]+ in rollout ro-[0-9a-f]+ is damaged", shown), shown


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sources SET resource = replace(resource, '{', '{\"x\":1,')",
        "UPDATE sources SET process = cast(x'ff00' AS TEXT)",
        "UPDATE sources SET scope_name = 7",
    ],
)
def test_verify_names_a_process_that_was_changed(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Process, scope or resource of spans that somebody changed in the file are found: their number is their hash."""
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    fill(store, 1)
    store.close()
    connection = sqlite3.connect(path)
    (rollout_id,) = connection.execute("SELECT rollout_id FROM rollouts").fetchone()
    connection.execute(damage)
    connection.commit()
    connection.close()
    assert agl("store", "verify", "--store", path) == 1
    assert f"process or resource of 3 spans, of rollout {rollout_id} and perhaps others, is damaged" in (
        capsys.readouterr().out
    )


def test_what_a_damaged_file_holds_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of damaged rows are printed with control characters and bytes that are no text escaped, one on a line."""
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    fill(store, 1)
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE spans SET span_id = cast(x'1b5b33316d0aff' AS TEXT) WHERE sequence_id = 2")
    connection.commit()
    connection.close()
    capsys.readouterr()
    assert agl("store", "verify", "--store", path) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "span \\x1b[31m\\n\\udcff of trace" in line


def test_there_is_nothing_to_compact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Looking after a file that is not there is one sentence and exit code 2."""
    for command in ("vacuum", "verify"):
        assert agl("store", command, "--store", tmp_path / "none.db") == 2
        assert f"there is no store at {tmp_path}/none.db" in capsys.readouterr().err


_LIMITED = """
import resource, sys
from pathlib import Path
from agentlightning.errors import StoreUnavailableError
from agentlightning.store import upkeep
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
for work in (upkeep.backup, upkeep.restore):
    try:
        work(Path(sys.argv[1]), Path(sys.argv[2]))
    except StoreUnavailableError as error:
        print("cannot write" in str(error))
"""


def test_without_room_a_copy_leaves_nothing_behind(tmp_path: Path) -> None:
    """A backup or restore for which there is no room says so, and leaves neither a part of a file nor its journal."""
    path, folder = tmp_path / "store.db", tmp_path / "small"
    folder.mkdir()
    store = SqliteLightningStore(path)
    fill(store, 5, 50)
    store.close()
    command = [sys.executable, "-c", _LIMITED, str(path), str(folder / "copy.db")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout == "True\nTrue\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE rollouts SET metadata = '{'", "rollout ro-"),
        ("UPDATE rollouts SET config = ''", "rollout ro-"),
        ("UPDATE rollouts SET status = 'odd', queue_place = NULL", "rollout ro-"),
        ("UPDATE attempts SET metadata = '{'", "attempt at-"),
        ("UPDATE spans SET attributes = '{'", "span "),
        ("UPDATE spans SET packed = x'02ffff'", "span "),
        ("UPDATE spans SET facts = '[', crc = NULL", "span "),
    ],
)
def test_a_damaged_row_is_named_and_never_a_traceback(
    damage: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who reads a damaged row gets one sentence that names it, and a check of the store names it too."""
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    fill(store, 1, 1)
    store.close()
    connection = sqlite3.connect(path)
    connection.execute(damage)
    connection.commit()
    connection.close()
    capsys.readouterr()
    assert agl("show", "latest", "--raw", "--no-pager", "--store", path) == 2
    shown = capsys.readouterr().err
    assert re.match(f"agl: {named}[^ ]+ .*is damaged in the store", shown), shown
    assert agl("store", "verify", "--store", path) == 1
    assert re.search(f": {named}[^ ]+ .*is damaged|: {named}[^ ]+ is damaged", capsys.readouterr().out)


@pytest.mark.parametrize("way", ["batch", "add"])
def test_an_open_writer_goes_on_after_a_vacuum(way: str, tmp_path: Path) -> None:
    """What an open writer stores after retention and compaction took all it had written can be read."""
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    fill(store, 1)

    async def write_again() -> list[str]:
        rollout = await store.start_rollout("task")
        span = record_of(rollout.rollout_id, rollout.attempt.attempt_id, 9)
        if way == "batch":
            assert store.write_batch(WriteBatch(spans=[span])).stored == 1
        else:
            await store.add_spans([Span.from_record(span, 0)])
        return [found.span_id for found in await store.query_spans(rollout.rollout_id)]

    assert agl("store", "prune", "--store", path, "--keep", "0") == 0
    assert spans_in(path) == 0
    vacuum(path)
    assert len(asyncio.run(write_again())) == 1
    store.close()
    assert verify(path).problems == ()


def test_a_follower_that_was_away_misses_nothing_after_a_vacuum(tmp_path: Path) -> None:
    """Rollouts in the middle and at the end are deleted and the file is compacted: what comes then is seen, once."""
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    fill(store, 6)
    cursor = (asyncio.run(store.query_changes(BEGINNING))).cursor
    ids = [rollout.rollout_id for rollout in asyncio.run(store.query_rollouts())]
    asyncio.run(store.delete_rollouts([ids[2], ids[-1]]))
    store.close()
    assert agl("store", "vacuum", "--store", path) == 0
    store = SqliteLightningStore(path)
    later = [record_of("ro-later", "at-later", number) for number in range(1, 9)]
    store.write_batch(WriteBatch(spans=later))
    found = asyncio.run(store.query_changes(cursor))
    assert sorted(span.span_id for span in found.spans) == sorted(span.span_id for span in later)
    assert not (asyncio.run(store.query_changes(found.cursor))).spans
    store.close()


KILLED_BACKUP = """
import os, signal, sys
from pathlib import Path
from agentlightning.store import upkeep
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "while copying":
    os.fsync = die
else:
    Path.replace = die
upkeep.backup(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("moment", ["while copying", "before it is done"])
def test_a_killed_backup_leaves_no_half_one(tmp_path: Path, moment: str) -> None:
    """After SIGKILL nothing lies under the name of the backup, and the next one is made as if nothing had been."""
    path, target = tmp_path / "store.db", tmp_path / "copy.db"
    store = SqliteLightningStore(path)
    fill(store, 5)
    store.close()
    command = [sys.executable, "-c", KILLED_BACKUP, str(path), str(target), moment]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert not target.exists()
    assert agl("store", "backup", target, "--store", path) == 0
    assert spans_in(target) == spans_in(path) == 15
