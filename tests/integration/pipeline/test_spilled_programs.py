"""A store that is away during a whole program costs no span: the next process that uses it delivers them."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.pipeline.ledger import Account
from agentlightning.pipeline.lock import FolderLock

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.integration.pipeline.conftest import Programs


@contextmanager
def locked(programs: Programs) -> Generator[None, None, None]:
    """Keep the store from being written: a transaction of somebody else's that does not end."""
    programs.run("emit(1, first=True); flush(10)")
    connection = sqlite3.connect(programs.store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def test_the_next_agl_run_delivers_what_a_program_could_not(programs: Programs, load: float) -> None:
    """The program ends in time and untouched; ``agl run`` of another one brings its spans to the store, in order."""
    with locked(programs):
        began = time.monotonic()
        assert programs.run("emit(700); print('done')") == "done\n"
        assert time.monotonic() - began < 3 + 3 * load
        assert programs.account() == Account(700, 0, 0, 700, {}, 700)
        assert programs.segments()
    assert programs.stored() == 1
    assert "0 lost" in programs.agl("run", "true")
    assert programs.stored() == 701
    assert programs.order() == [0, *range(700)]
    assert not programs.segments()
    assert programs.account() == Account()


def test_any_traced_program_delivers_them_too(programs: Programs) -> None:
    """A program that traces itself replays what lies beside its store, besides its own spans."""
    with locked(programs):
        programs.run("emit(50)")
    programs.run("emit(1); flush(10)\nwhile get_pipeline().worker._exporter.waiting(): time.sleep(0.01)")
    assert programs.stored() == 52
    assert not programs.segments()


def test_a_damaged_store_loses_nothing(programs: Programs) -> None:
    """While the file is no database, spans go to the disk beside it; once it is put right, they are in it."""
    programs.store.write_bytes(b"this is no database at all" * 100)
    programs.run("emit(30)")
    assert programs.account() == Account(30, 0, 0, 30, {}, 30)
    programs.store.unlink()
    programs.agl("run", "true")
    assert programs.stored() == 30
    assert programs.account() == Account()


def test_a_program_goes_on_when_the_store_comes_back(programs: Programs) -> None:
    """Spilled while the store was away, replayed by the same process afterwards, in order, without a restart."""
    with locked(programs):
        code = """
emit(10)
while not account().spilled: time.sleep(0.01); emit(1)
print("spilled", flush=True)
sys.stdin.read()
"""
        process = programs.start(code + "emit(10); flush(10); print(account())")
        assert process.stdout is not None
        assert process.stdout.readline() == "spilled\n"
    output, errors = process.communicate("", timeout=60)
    assert not errors
    assert "waiting=0, lost={}" in output
    assert not programs.segments()


def test_two_programs_replay_at_once(programs: Programs) -> None:
    """Both find the same spill; each record is stored once and both end well."""
    with locked(programs):
        programs.run("emit(2_000)")
    both = [programs.start("emit(1); flush(10); print(account().total_lost)") for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["0\n", "0\n"]
    programs.agl("run", "true")
    assert programs.stored() == 2_003
    assert not programs.segments()


def test_a_replay_that_is_killed_is_done_again(programs: Programs) -> None:
    """SIGKILL between commit and delete: the next replay finds duplicates, and the ledger still adds up."""
    with locked(programs):
        programs.run("emit(1_200)")
    code = """
from pathlib import Path
from agentlightning.pipeline import replay
Path.unlink = lambda *args, **kwargs: os.kill(os.getpid(), 9)
from agentlightning.store.url import open_writer
replay.replay_spill(open_writer(), timeout_s=10)
"""
    programs.run(code, status=-signal.SIGKILL)
    assert 1 < programs.stored() <= 1_201
    assert programs.segments()
    programs.agl("run", "true")
    assert programs.stored() == 1_201
    assert not programs.segments()
    assert programs.account() == Account()


def test_a_child_that_traces_nothing_keeps_no_lock(programs: Programs) -> None:
    """A program forks while it replays, and is killed: the next one can go on, though the child lives."""
    code = """
from pathlib import Path
from agentlightning.pipeline.replay import Replayer
from agentlightning.pipeline.segment import SpillFolder
emit(1); flush(10)
worker = get_pipeline().worker
worker.busy.acquire()
(lane,) = worker._exporter._lanes.values()
folder = SpillFolder(Path(os.environ["AGL_STORE"] + ".spill"), 1_000)
folder.make()
lane._replayer = Replayer(folder)
assert lane._replayer._lock.acquire()
if os.fork():
    os.kill(os.getpid(), 9)
print(os.getpid(), flush=True)
time.sleep(60)
"""
    process = programs.start(code)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        assert process.wait(30) == -signal.SIGKILL
        lock = FolderLock(Path(f"{programs.store}.spill"))
        assert lock.acquire()
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate(timeout=30)
