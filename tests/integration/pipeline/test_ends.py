"""However a process ends, its spans are stored or safe on the disk, in time, and nobody's are written twice."""

from __future__ import annotations

import signal
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from agentlightning.pipeline.ledger import Account

if TYPE_CHECKING:
    from tests.integration.pipeline.conftest import Programs


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("emit(100)", 0),
        ("emit(100); sys.exit(3)", 3),
        ("emit(100); os.kill(os.getpid(), 15); time.sleep(10)", -signal.SIGTERM),
        ("emit(50); import atexit; atexit.register(emit, 50)", 0),
        ("emit(100); flush(5); os._exit(4)", 4),
        ("threads = [threading.Thread(target=emit, args=(25,)) for _ in range(4)]; [t.start() for t in threads]", 0),
    ],
    ids=["exit", "sys.exit", "sigterm", "atexit", "os._exit", "threads"],
)
def test_every_end_stores_everything(programs: Programs, code: str, status: int) -> None:
    """100 of 100, whatever the end, and the exit status is the program's own."""
    programs.run(code, status=status)
    assert programs.stored() == 100
    assert programs.account().total_lost == 0


FORKS = "ignore:This process:DeprecationWarning"
"""From 3.12 on Python warns of a fork beside threads: those of the program, or ours while a store holds them."""


def test_a_forked_child_delivers_its_own_spans_and_not_its_parent_s(programs: Programs) -> None:
    """Thirty forks while four threads emit: no deadlock, nothing lost, nothing twice."""
    code = """
stop = threading.Event()
made = [0] * 4
def work(place):
    while not stop.is_set():
        emit(1); made[place] += 1; time.sleep(0.001)
threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
[thread.start() for thread in threads]
children = []
for _ in range(30):
    child = os.fork()
    if not child:
        emit(5); flush(10); os._exit(0)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
stop.set(); [thread.join() for thread in threads]
flush(10)
print(sum(made))
"""
    own = int(programs.run(code, PYTHONWARNINGS=FORKS))
    assert programs.stored() == own + 150
    assert programs.account().total_lost == 0


def test_a_pool_s_workers_deliver(programs: Programs) -> None:
    """``multiprocessing`` children leave by ``os._exit``; their spans are stored all the same."""
    code = """
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        pool.map(emit, [10] * 6, chunksize=1)
        pool.close(); pool.join()
"""
    programs.run(code)
    assert programs.stored() == 60


def test_a_fork_while_something_is_spilled_shares_no_segment(programs: Programs) -> None:
    """Parent and child spill each for itself; both are replayed, each span once."""
    programs.run("emit(1)")
    connection = sqlite3.connect(programs.store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    code = """
emit(1)
while not account().spilled: time.sleep(0.01); emit(1)
before = account().produced
child = os.fork()
emit(20)
if not child:
    get_pipeline().begin_exit()
    os._exit(0)
os.waitpid(child, 0)
print(before)
"""
    before = int(programs.run(code, AGL_FLUSH_TIMEOUT_S="0.5", PYTHONWARNINGS=FORKS))
    connection.rollback()
    connection.close()
    programs.agl("run", "true")
    assert programs.stored() == 1 + before + 40
    assert programs.account() == Account()


def test_a_store_that_hangs_delays_the_end_for_its_deadline_only(programs: Programs, load: float) -> None:
    """``AGL_FLUSH_TIMEOUT_S`` bounds the wait; what was not stored is on the disk, and SIGTERM is no different."""
    programs.run("emit(1)")
    connection = sqlite3.connect(programs.store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for code, status in (("emit(300)", 0), ("emit(300); os.kill(os.getpid(), 15); time.sleep(9)", -15)):
            began = time.monotonic()
            programs.run(code + "\n", status=status, AGL_FLUSH_TIMEOUT_S="0.5")
            assert time.monotonic() - began < 1 + 3 * load
    finally:
        connection.rollback()
        connection.close()
    assert programs.account() == Account(600, 0, 0, 600, {}, 600)
    programs.agl("run", "true")
    assert programs.stored() == 601
