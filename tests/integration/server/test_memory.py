"""The memory of a server process: small when idle, bounded when clients send faster than the disk takes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from agentlightning.server.forward.message import message_of
from agentlightning.testing.store_contract_spans import record_of

if TYPE_CHECKING:
    from collections.abc import Generator

IDLE_MB = 60
OVERLOADED_MB = 400
"""64 MiB of bodies that wait, two requests of 8 MiB as spans, and what Python keeps."""
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

SLOW = """
import sys, time
from agentlightning.server.launcher import ServerOptions, run_server
from agentlightning.store import SqliteLightningStore
class Slow(SqliteLightningStore):
    def write_batch(self, batch):
        time.sleep(0.05)
        return super().write_batch(batch)
run_server(Slow(sys.argv[1]), ServerOptions(port=0), lambda url: print(url, file=sys.stderr, flush=True))
"""


@contextmanager
def running(command: list[str]) -> Generator[tuple[str, int], None, None]:
    """Run a server and give its URL and process id."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = process.stderr.readline().split()[-1]
    try:
        yield url, process.pid
    finally:
        process.kill()
        process.communicate()


def memory_mb(pid: int, what: str = "VmRSS") -> float:
    """Return the resident memory of a process now, or the most it had (VmHWM)."""
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


def test_an_idle_server_is_small(tmp_path: Path) -> None:
    """A server that answers its health, and does nothing else, has at most 60 MB."""
    store = str(tmp_path / "store.db")
    command = [sys.executable, "-m", "agentlightning.cli", "store", "serve", "--store", store, "--port", "0"]
    with running(command) as (url, pid):
        assert httpx.get(f"{url}/ready").status_code == 200
        used = memory_mb(pid)
    print(f"\nidle: {used:.1f} MB of {IDLE_MB}")
    assert used <= IDLE_MB


@pytest.mark.timeout(60)
def test_a_flood_is_bounded(tmp_path: Path) -> None:
    """Clients that send 8 MB bodies faster than a slow disk takes get 503 with Retry-After; memory has a bound."""
    spans = [record_of("ro-1", "at-1", number, attributes={"text": "x" * 2000}) for number in range(4000)]
    body = message_of(spans).SerializeToString()
    answers: list[tuple[int, str]] = []
    until = time.monotonic() + 4

    def send(url: str) -> None:
        with httpx.Client(timeout=60) as client:
            while time.monotonic() < until:
                answer = client.post(
                    f"{url}/v1/traces", content=body, headers={"content-type": "application/x-protobuf"}
                )
                answers.append((answer.status_code, answer.headers.get("retry-after", "")))

    with running([sys.executable, "-c", SLOW, str(tmp_path / "store.db")]) as (url, pid):
        senders = [threading.Thread(target=send, args=(url,)) for _ in range(14)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        most = memory_mb(pid, "VmHWM")
        assert httpx.get(f"{url}/ready").status_code == 200
    kinds = {pair: answers.count(pair) for pair in sorted(set(answers))}
    print(f"\n{len(body) / 2**20:.0f} MiB bodies: answers {kinds}, at most {most:.0f} MB of {OVERLOADED_MB}")
    assert set(kinds) == {(200, ""), (503, "1")}
    assert most <= OVERLOADED_MB
