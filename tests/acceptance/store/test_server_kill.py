"""A server that is killed again and again while clients write: what was acknowledged is there."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from agentlightning.errors import StoreUnavailableError
from agentlightning.store import upkeep
from agentlightning.store.batch_client import BatchClient
from agentlightning.store.exchange import Exchange, RetryPolicy
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("AGL_TEST_KILLS", "3"))
SPANS = int(os.environ.get("AGL_TEST_SPANS", "5000"))
READY_WITHIN_S = 3.0


def ready_within_s() -> float:
    """Return the bar for a restart, longer where more programs want the processors than there are."""
    return READY_WITHIN_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class ServerProcess:
    """``agl store serve`` as a process of its own on a fixed port."""

    def __init__(self, path: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "agentlightning.cli", "store", "serve", "--store", str(path)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Start it, and return after how many seconds it said that it serves."""
        started = time.monotonic()
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert re.match(r"serving sqlite:.* at http", line), line
        return time.monotonic() - started

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal and wait for its end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(20)
        assert self._process.stderr is not None
        self._process.stderr.close()


def client_of(url: str, delays: tuple[float, ...] = ()) -> BatchClient:
    """Return a client that is as patient as *delays* say."""
    return BatchClient(url, Exchange([url], RetryPolicy(delays, 60.0, 10.0), token="", ca_file=""))


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    """After each SIGKILL the store is sound, holds every acknowledged span once, and serves again soon."""
    path = tmp_path / "store.db"
    server = ServerProcess(path)
    acknowledged: set[str] = set()
    lock = threading.Lock()
    stop = threading.Event()

    def write(name: str) -> None:
        client = client_of(server.url)
        pending: WriteBatch | None = None
        while not stop.is_set():
            batch = pending or WriteBatch(
                spans=[record_of(f"ro-{name}", f"at-{name}", n, attributes={"t": "x" * 800}) for n in range(100)]
            )
            pending = batch
            try:
                client.write_batch(batch)
            except StoreUnavailableError:
                stop.wait(0.05)
                continue
            pending = None
            with lock:
                acknowledged.update(span.span_id for span in batch.spans)
        client.close()

    ready = [server.start()]
    writers = [threading.Thread(target=write, args=(str(number),)) for number in range(2)]
    for writer in writers:
        writer.start()
    chance = random.Random(5)
    for kill in range(KILLS):
        goal = SPANS * (kill + 1) // KILLS
        while len(acknowledged) < goal:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        server.kill()
        ready.append(server.start())
    stop.set()
    for writer in writers:
        writer.join()
    server.kill(signal.SIGTERM)
    verdict = upkeep.verify(path)
    connection = sqlite3.connect(path)
    found = [row[0] for row in connection.execute("SELECT span_id FROM spans")]
    connection.close()
    lost = acknowledged - set(found)
    print(
        f"\n{KILLS} kills, {len(acknowledged):,} acknowledged, {len(lost)} lost, ready after {max(ready):.1f} s at most"
    )
    assert (verdict.problems, lost, len(found) - len(set(found))) == ((), set(), 0)
    assert max(ready) < ready_within_s()


def test_a_client_survives_a_restart(tmp_path: Path) -> None:
    """A write that begins while the server is away goes on when it is back, and is stored once."""
    server = ServerProcess(tmp_path / "store.db")
    server.start()
    client = client_of(server.url, (0.2,) * 50)
    batch = WriteBatch(spans=[record_of("ro-1", "at-1", 1)])
    assert client.write_batch(batch).stored == 1
    server.kill()
    back = threading.Timer(0.5, server.start)
    back.start()
    assert client.write_batch(batch).duplicate == 1
    back.join()
    client.close()
    server.kill(signal.SIGTERM)
