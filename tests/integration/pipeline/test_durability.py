"""What is durable when: after the call with SYNC, after 50 ms on the disk of this machine where the store is remote."""

from __future__ import annotations

import gzip
import json
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentlightning.pipeline.frame import ENDED
from agentlightning.pipeline.segment import open_segment
from agentlightning.pipeline.spill import spill_folders
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.pipeline.conftest import Programs

KILL = "os.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    "code", ["emit(25)", "from agentlightning import emit_reward; [emit_reward(1) for _ in range(25)]"]
)
def test_sync_loses_nothing_at_all(programs: Programs, code: str) -> None:
    """SIGKILL right after the call that ended the last span: 25 of 25 are stored."""
    programs.run(f"{code}; {KILL}", status=-signal.SIGKILL, AGL_DURABILITY="sync")
    assert programs.stored() == 25


def test_sync_goes_to_the_disk_where_the_store_is_away(programs: Programs) -> None:
    """A store that nobody reaches: the same promise, kept by the spill."""
    url = "http://127.0.0.1:9"
    programs.run(
        f"emit(3); {KILL}", status=-signal.SIGKILL, AGL_DURABILITY="sync", AGL_STORE=url, AGL_FLUSH_TIMEOUT_S="0.3"
    )
    assert spilled(url) == 3


def spilled(url: str) -> int:
    """Return how many ended spans lie on the disk for the store at *url*."""
    found = 0
    for folder in spill_folders(url):
        for path in folder.segments():
            reader = open_segment(path)
            assert reader is not None
            found += sum(frame.kind == ENDED for frame in reader)
            reader.close()
    return found


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("emit(100); raise KeyError('mine')", 1),
        (
            (
                "import multiprocessing, subprocess\n"
                "emit(50); child = multiprocessing.get_context('fork').Process(target=emit, args=(50,))\n"
                "child.start(); child.join()"
            ),
            0,
        ),
        (
            (
                "from concurrent.futures import ProcessPoolExecutor\n"
                "import multiprocessing\n"
                "with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as pool:\n"
                "    list(pool.map(emit, [10] * 10))"
            ),
            0,
        ),
    ],
    ids=["uncaught", "process", "executor"],
)
def test_further_ends_store_everything(programs: Programs, code: str, status: int) -> None:
    """100 of 100 after an uncaught exception, from a child process and from a pool of them."""
    process = programs.start(code)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert ("KeyError: 'mine'" in errors) == (status == 1)
    assert programs.stored() == 100
    assert programs.account().total_lost == 0


def test_spawned_children_deliver(programs: Programs) -> None:
    """100 of 100 from processes that are started anew, each with an interpreter of its own."""
    script = programs.folder / "spawned.py"
    script.write_text(
        "import multiprocessing\n"
        "from agentlightning.tracer.provider import get_tracer\n"
        "def emit(count):\n"
        "    for number in range(count):\n"
        "        get_tracer().start_span('work').end()\n"
        "if __name__ == '__main__':\n"
        "    emit(40)\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        pool.map(emit, [30] * 2, chunksize=1)\n"
        "        pool.close(); pool.join()\n"
    )
    programs.run(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    assert programs.stored() == 100


class Server:
    """A store behind HTTP that notes each request."""

    def __init__(self, pause_s: float = 0.0) -> None:
        """Answer after *pause_s*."""
        self.batches: list[tuple[float, WriteBatch, int]] = []
        self.connections: set[Any] = set()
        decode = msgspec.msgpack.Decoder(WriteBatch).decode
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Take a batch."""
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                batch = decode(body)
                time.sleep(pause_s)
                ended = sum(span.end_ns is not None for span in batch.spans)
                outer.batches.append((time.monotonic(), batch, ended))
                outer.connections.add(self.client_address)
                answer = json.dumps({"stored": ended, "duplicate": 0}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - of the base class
                """Be silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def spans(self) -> int:
        """Return how many ended spans came."""
        return sum(ended for _, _, ended in self.batches)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    """A quick one."""
    server = Server()
    yield server
    server.close()


def test_a_remote_store_gets_batches_over_one_connection(programs: Programs, server: Server) -> None:
    """The first spans at once, then all when 100 wait whatever the interval, what is left at the end; all in order."""
    code = """
emit(1)
until = time.monotonic() + 5
while not account().stored and time.monotonic() < until: time.sleep(0.01)
assert account().stored == 1, account()
emit(250)
while account().stored < 201 and time.monotonic() < until: time.sleep(0.01)
emit(20)
time.sleep(0.3)
middle = account()
flush(5)
print(middle.stored, middle.spilled, account().stored)
"""
    stored, on_disk, final = map(int, programs.run(code, AGL_STORE=server.url, AGL_FLUSH_INTERVAL="60").split())
    assert final == server.spans() == 271
    assert 201 <= stored <= 251
    assert on_disk == 271 - stored
    assert len(server.batches) <= 5
    assert len(server.connections) <= 2
    counters = [span.counter for _, batch, _ in server.batches for span in batch.spans if span.end_ns is not None]
    assert counters == sorted(counters)


def test_the_interval_bounds_how_long_a_remote_store_waits(programs: Programs, server: Server, load: float) -> None:
    """A few spans arrive after the interval, without a flush and without a full batch."""
    code = """
emit(1)
while not account().stored: time.sleep(0.01)
began = time.monotonic()
emit(3)
while account().stored < 4 and time.monotonic() - began < 30: time.sleep(0.01)
print(time.monotonic() - began)
"""
    waited = float(programs.run(code, AGL_STORE=server.url, AGL_FLUSH_INTERVAL="1"))
    assert 0.5 < waited < 2 + load
    assert server.spans() == 4


def test_a_kill_between_requests_loses_nothing_that_is_older_than_200_ms(programs: Programs) -> None:
    """The server takes 3 s for the first request; what ended meanwhile is on the disk when the program is killed."""
    slow = Server(pause_s=3)
    try:
        code = f"emit(1); time.sleep(0.3); emit(30); time.sleep(0.2); {KILL}"
        programs.run(code, status=-signal.SIGKILL, AGL_STORE=slow.url)
        assert spilled(slow.url) == 31
    finally:
        slow.close()


def test_sync_to_a_store_that_stays_away_keeps_to_few_files(programs: Programs) -> None:
    """After its grace a store is tried at its pauses only, and a span that is on the disk already closes no segment."""
    url = "http://127.0.0.1:9"
    code = """
from agentlightning.pipeline import lane
lane.GRACE_S = lane.GIVEN_UP_S = 0.0
emit(150)
"""
    programs.run(code + KILL, status=-signal.SIGKILL, AGL_DURABILITY="sync", AGL_STORE=url, AGL_FLUSH_TIMEOUT_S="2")
    assert spilled(url) == 150
    assert sum(len(folder.segments()) for folder in spill_folders(url)) < 20
