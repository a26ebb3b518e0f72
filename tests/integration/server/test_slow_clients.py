"""Clients that send a byte now and then: others are answered as before, and the slow ones are closed in time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from agentlightning.server import connection
from agentlightning.server.gate import GateLimits
from agentlightning.server.launcher import LightningStoreServer, ServerOptions
from agentlightning.store import InMemoryLightningStore

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOSED_WITHIN_S = 30.0
P99_S = 0.2
HEAD = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
BODY = b"POST /v1/traces HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n"
WAYS = {
    "first head": (b"", HEAD.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 999)),
    "second head": (HEAD, HEAD.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 999)),
    "body": (BODY, b" " * 999),
}
"""What is sent at once, and what byte by byte."""


async def dribble(port: int, way: str, pause_s: float) -> float:
    """Send one byte after each pause until the server closes; return after how many seconds it did."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    at_once, slowly = WAYS[way]
    writer.write(at_once)
    began = time.monotonic()
    ended = asyncio.create_task(_until_closed(reader))
    for place in range(len(slowly)):
        writer.write(slowly[place : place + 1])
        done, _ = await asyncio.wait([ended], timeout=pause_s)
        if done:
            break
    writer.close()
    return time.monotonic() - began


async def _until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(4096):
            pass
    except OSError:
        pass


async def ask(port: int, slow: list[asyncio.Task[float]], times: list[float]) -> None:
    """Ask for something every 50 ms while slow clients are there, and note how long each answer took."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        while not all(task.done() for task in slow):
            began = time.monotonic()
            assert (await client.get("/v1/rollouts/newest")).status_code == 200
            times.append(time.monotonic() - began)
            await asyncio.sleep(0.05)


async def attack(port: int, count: int, pause_s: float) -> tuple[float, float]:
    """Be *count* slow clients of all kinds; return the longest life of one, and the 99th percentile of the others."""
    ways = list(WAYS)
    slow = [asyncio.create_task(dribble(port, ways[number % len(ways)], pause_s)) for number in range(count)]
    times: list[float] = []
    await ask(port, slow, times)
    lives = [task.result() for task in slow]
    return max(lives), sorted(times)[int(len(times) * 0.99)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[LightningStoreServer]:
    """Serve with bounds of a second."""
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 1.0)
    made = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    made.options = ServerOptions(port=0, limits=GateLimits(body_timeout_s=1.0))
    with made as running:
        yield running


@pytest.mark.parametrize("way", WAYS)
async def test_slow_clients_are_closed_in_time(impatient: LightningStoreServer, way: str, load: float) -> None:
    """A head, also that of a second request, and a body that do not arrive in time end the connection."""
    port = int(impatient.endpoint.rpartition(":")[2])
    lives = await asyncio.gather(*(dribble(port, way, 0.05) for _ in range(20)))
    assert 0.9 < min(lives) <= max(lives) < 4 + load


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_500_slow_clients_keep_nobody_waiting(tmp_path: Path, load: float) -> None:
    """At a byte a second each they are gone after 30 s; meanwhile 99 of 100 answers take less than 0.2 s."""
    command = [sys.executable, "-m", "agentlightning.cli", "store", "serve", "--port", "0"]
    process = subprocess.Popen([*command, "--store", str(tmp_path / "s.db")], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port = int(process.stderr.readline().rpartition(":")[2])
    descriptors = Path(f"/proc/{process.pid}/fd")
    try:
        before = len(list(descriptors.iterdir()))
        longest, p99 = asyncio.run(attack(port, 500, 1.0))
        time.sleep(0.5)
        after = len(list(descriptors.iterdir()))
    finally:
        process.terminate()
        process.communicate(timeout=60)
    print(f"\n500 slow clients: closed after {longest:.1f} s at most, p99 of others {1000 * p99:.0f} ms")
    assert longest < CLOSED_WITHIN_S + 3 * load  # its own byte a second, and the end of the connection
    assert p99 < P99_S * load
    assert after <= before + 10
