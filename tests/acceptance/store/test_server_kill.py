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
from pathlib import Path

import pytest

from agentlightning.errors import StoreUnavailableError
from agentlightning.store import upkeep
from agentlightning.store.batch_client import BatchClient
from agentlightning.store.exchange import Exchange, RetryPolicy
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

READY_WITHIN_S = 3.0
"""Bar for a restart: for its processor time always, for the clock where nothing else wants the processors."""


def ready_within_s() -> float:
    """Return the bar for the clock, longer where more programs want the processors than there are."""
    return READY_WITHIN_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def processor_s(pid: int) -> float:
    """Return the processor time that a process has taken, 0 where that cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ServerProcess:
    """``agl store serve`` as a process of its own on a fixed port."""

    def __init__(self, path: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "agentlightning.cli", "store", "serve", "--store", str(path)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> tuple[float, float]:
        """Start it, and return after how many seconds it said that it serves, and its processor time until then."""
        started = time.monotonic()
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert re.match(r"serving sqlite:.* at http", line), line
        return time.monotonic() - started, processor_s(self._process.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal and wait for its end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        assert self._process.stderr is not None
        self._process.stderr.close()


def client_of(url: str, delays: tuple[float, ...] = ()) -> BatchClient:
    """Return a client that is as patient as *delays* say."""
    return BatchClient(url, Exchange([url], RetryPolicy(delays, 60.0, 10.0), token="", ca_file=""))


@pytest.mark.timeout(120)
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    """After each SIGKILL the store is sound, holds every acknowledged span once, and serves again soon."""
    kill_while_clients_write(tmp_path, kills=3, spans=5_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_of_200_000_acknowledged_spans_is_lost_in_20_kills(tmp_path: Path) -> None:
    """The long form."""
    kill_while_clients_write(tmp_path, kills=20, spans=200_000)


def kill_while_clients_write(folder: Path, *, kills: int, spans: int) -> None:
    """Kill the server *kills* times until *spans* are acknowledged, start it again each time, and look for them all."""
    path = folder / "store.db"
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
    for kill in range(kills):
        goal = spans * (kill + 1) // kills
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
    took, used = (max(times) for times in zip(*ready, strict=True))
    print(
        f"\n{kills} kills, {len(acknowledged):,} acknowledged, {len(lost)} lost, ready after {took:.1f} s at most"
        f" ({used:.1f} s of processor)"
    )
    assert (verdict.problems, lost, len(found) - len(set(found))) == ((), set(), 0)
    assert used < READY_WITHIN_S
    assert took < ready_within_s()


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
