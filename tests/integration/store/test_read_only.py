"""Stores where nothing may be written, such as a backup on read-only media: they can be read and stay as they are."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agentlightning.store import SqliteLightningStore
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Root may write everywhere, unless it gives that up.
_AS_ROOT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
_IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

pytestmark = pytest.mark.skipif(_IS_ROOT and not shutil.which("setpriv"), reason="root cannot be kept from writing")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that is made writable again at the end."""
    made = tmp_path / "media"
    made.mkdir()
    yield made
    made.chmod(0o700)


def fill(path: Path) -> SqliteLightningStore:
    """Make a store with a running rollout of one span, and one whose claim is overdue."""
    store = SqliteLightningStore(path)
    started = asyncio.run(store.start_rollout("first"))
    asyncio.run(store.enqueue_rollout("overdue"))
    assert asyncio.run(store.dequeue_rollout(lease_s=0.001)) is not None
    store.write_batch(WriteBatch(spans=[record_of(started.rollout_id, started.attempt.attempt_id, 1)]))
    return store


def close(folder: Path) -> list[tuple[str, bytes]]:
    """Forbid to write in *folder*, and return what is in it."""
    for path in folder.iterdir():
        path.chmod(0o400)
    folder.chmod(0o500)
    return contents(folder)


def contents(folder: Path) -> list[tuple[str, bytes]]:
    """Return name and content of each file."""
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def agl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody who may not write there."""
    command = [*(_AS_ROOT if _IS_ROOT else []), sys.executable, "-m", "agentlightning.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_store_on_read_only_media_can_be_read(folder: Path) -> None:
    """``agl ls``, ``show`` and ``store info`` show it, also with a claim that is overdue; writing is refused."""
    path = folder / "store.db"
    fill(path).close()
    before = close(folder)
    for arguments, shown in ((("ls",), "first"), (("show", "latest"), "overdue"), (("store", "info"), "spans      1")):
        done = agl(*arguments, "--store", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert shown in done.stdout
    refused = agl("run", "--store", path, "true")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert contents(folder) == before


def test_a_store_with_a_log_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    """What was copied together with a log that nobody worked in says what to do, and is not read by halves."""
    store = fill(tmp_path / "store.db")
    for name in ("store.db", "store.db-wal"):
        shutil.copy(tmp_path / name, folder / name)
    store.close()
    before = close(folder)
    done = agl("ls", "--store", folder / "store.db")
    assert done.returncode != 0
    assert "store.db-wal" in done.stderr
    assert "copy both files" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents(folder) == before


def test_an_older_form_is_not_brought_up_to_date_there(folder: Path) -> None:
    """A store of an older release is refused with one line that says why."""
    path = folder / "store.db"
    fill(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    close(folder)
    done = agl("ls", "--store", path)
    assert done.returncode != 0
    assert "older release" in done.stderr
    assert len(done.stderr.splitlines()) == 1
