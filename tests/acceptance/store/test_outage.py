"""A server that is away while a program goes on making spans: nothing is lost, and what waited arrives soon.

The long form is 60 s of outage at 1,000 spans/s; ``make matrix`` runs it. The figures are printed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

CAUGHT_UP_WITHIN_S = 30.0
RATE = 1000

# Ends so many spans a second for so many seconds, notes its slowest span, then waits to be told to end.
PROGRAM = """
import json, sys, time
from agentlightning.pipeline.process import account, flush
from agentlightning.tracer.provider import get_tracer
tracer = get_tracer()
tracer.start_span("warm").end()
flush(10)
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
print("begin", flush=True)
began, made, slowest = time.perf_counter(), 0, 0.0
while (passed := time.perf_counter() - began) < seconds:
    while made < passed * rate:
        before = time.perf_counter()
        tracer.start_span(f"step {made}", attributes={"input.value": "x" * 500}).end()
        slowest = max(slowest, time.perf_counter() - before)
        made += 1
    time.sleep(0.002)
print(json.dumps({"made": made, "slowest_ms": 1000 * slowest}), flush=True)
sys.stdin.readline()
flush(60)
done = account()
print(json.dumps({"lost": done.total_lost, "waiting": done.waiting}), flush=True)
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(path: Path, port: int) -> subprocess.Popen[str]:
    """Start ``agl store serve`` and return when it serves."""
    command = [sys.executable, "-m", "agentlightning.cli", "store", "serve", "--store", str(path), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert re.match(r"serving sqlite:", line), line
    return process


def stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """End a process by a signal."""
    process.send_signal(number)
    process.communicate(timeout=60)


def stored(path: Path) -> set[str]:
    """Return the names of the steps in a store."""
    with closing(sqlite3.connect(path)) as connection:
        found = [row[0] for row in connection.execute("SELECT name FROM spans WHERE name LIKE 'step %'")]
    assert len(found) == len(set(found))
    return set(found)


def count(path: Path) -> int:
    """Return how many ended spans are in a store, the first one of the program left out; cheap: it is asked often."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM spans WHERE sequence_id > 0").fetchone()[0] - 1


def outage(folder: Path, before_s: float, away_s: float) -> None:
    """Kill the server after *before_s*, start it again after *away_s*, and count what is missing."""
    path, port = folder / "store.db", free_port()
    server = start_server(path, port)
    environment = {**os.environ, "AGL_STORE": f"http://127.0.0.1:{port}"}
    environment.update(AGL_ROLLOUT_ID="ro-outage", AGL_ATTEMPT_ID="at-outage")  # as agl run does
    command = [sys.executable, "-c", PROGRAM, str(RATE), str(before_s + away_s)]
    program = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline() == "begin\n"
    time.sleep(before_s)
    stop(server, signal.SIGKILL)
    told = json.loads(program.stdout.readline())  # it has made its last span: the server was away all the time
    server = start_server(path, port)
    back = time.monotonic()
    made = {f"step {number}" for number in range(told["made"])}
    while count(path) < len(made) and time.monotonic() - back < 2 * CAUGHT_UP_WITHIN_S:
        time.sleep(0.25)
    caught_up_s = time.monotonic() - back
    found = stored(path)
    program.stdin.write("\n")
    program.stdin.close()
    account = json.loads(program.stdout.readline())
    program.wait(60)
    program.stdout.close()
    stop(server, signal.SIGTERM)
    print(
        f"\n{away_s:g} s away at {RATE} spans/s: {len(made - found)} of {len(made):,} lost, caught up in"
        f" {caught_up_s:.1f} s, slowest span {told['slowest_ms']:.1f} ms"
    )
    assert (made - found, account) == (set(), {"lost": 0, "waiting": 0})
    assert caught_up_s < CAUGHT_UP_WITHIN_S


@pytest.mark.timeout(120)
def test_a_short_outage_loses_nothing(tmp_path: Path) -> None:
    """The short form: 4 s."""
    outage(tmp_path, 1.0, 4.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_minute_without_a_server_loses_nothing(tmp_path: Path) -> None:
    """60 s at 1,000 spans/s: 0 of 60,000 lost, caught up within 30 s."""
    outage(tmp_path, 2.0, 60.0)
