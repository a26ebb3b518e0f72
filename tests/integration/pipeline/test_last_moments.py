"""The last moments of a process: what tail rules hold, a signal while the end is under way, a listener that hangs."""

from __future__ import annotations

import signal
import sqlite3
from typing import TYPE_CHECKING

import pytest

from agentlightning.pipeline.ledger import Account

if TYPE_CHECKING:
    from tests.integration.pipeline.conftest import Programs

UNSAMPLED = {"AGL_SAMPLE_RATE": "0", "AGL_TAIL_ERRORS": "1"}

TERMINATE = "os.kill(os.getpid(), 15); time.sleep(10)"


@pytest.mark.parametrize("end", ["", TERMINATE])
def test_a_trace_whose_root_fails_at_the_very_end_is_kept_whole(programs: Programs, end: str) -> None:
    """What is held is not let go while the error that keeps it is still in the queue."""
    code = f"""
from opentelemetry.trace import Status, StatusCode
with tracer.start_as_current_span("root") as root:
    emit(5)
    while get_pipeline().worker.held() < 5: time.sleep(0.01)
    root.set_status(Status(StatusCode.ERROR))
{end}
"""
    programs.run(code, status=-signal.SIGTERM if end else 0, **UNSAMPLED)
    assert programs.stored() == 7  # with the mark that says why
    assert programs.account().total_lost == 0


@pytest.mark.parametrize("end", ["", TERMINATE])
def test_what_no_tail_rule_keeps_is_counted_at_the_end(programs: Programs, end: str) -> None:
    """Spans that are held, or still in the queue, when the process ends are ``sampled`` and not ``killed``."""
    code = f"""
emit(20)
while get_pipeline().worker.held() < 20: time.sleep(0.01)
emit(30)
{end}
"""
    programs.run(code, status=-signal.SIGTERM if end else 0, **UNSAMPLED)
    account = programs.account()
    assert (account.produced, account.lost) == (50, {"sampled": 50})


def test_what_comes_after_the_end_is_not_held(programs: Programs) -> None:
    """A span of a trace that was not sampled which ends after our exit hook is let go at once, and counted."""
    programs.run("import atexit; atexit.register(emit, 5); emit(1)", status=0, **UNSAMPLED)
    assert programs.account().lost == {"sampled": 6}


def test_a_listener_that_hangs_does_not_hang_the_end(programs: Programs) -> None:
    """Whoever hangs in the worker holds its lock of order; the end waits for that as long as it said, and no longer."""
    code = """
from agentlightning import add_span_listener
add_span_listener(lambda span: time.sleep(60))
emit(3); time.sleep(0.2); emit(3)
"""
    programs.run(code, AGL_FLUSH_TIMEOUT_S="0.3")
    assert programs.account().lost == {"killed": 6}


def test_a_signal_while_the_end_is_under_way_waits_for_it(programs: Programs) -> None:
    """SIGTERM comes while the main thread brings what waits to the disk: that is finished, then the process ends."""
    programs.run("emit(1)")
    connection = sqlite3.connect(programs.store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    code = """
from agentlightning.pipeline.lane import Lane
plain = Lane._spill_all
def interrupted(self, *, move_first):
    if threading.current_thread() is threading.main_thread():
        os.kill(os.getpid(), 15)
    plain(self, move_first=move_first)
Lane._spill_all = interrupted
emit(10)
"""
    try:
        programs.run(code, status=-signal.SIGTERM, AGL_FLUSH_TIMEOUT_S="0.3")
    finally:
        connection.rollback()
        connection.close()
    assert programs.account() == Account(10, waiting=10, spilled=10)
