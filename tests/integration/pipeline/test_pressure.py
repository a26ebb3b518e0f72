"""Under pressure: bursts to a slow server, little memory, slow and failing stores; the short forms of benchmarks."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentlightning import LitAgent, OtelTracer, emit_message, open_store
from agentlightning.pipeline import sampling
from agentlightning.pipeline.process import flush
from agentlightning.runner import LitAgentRunner
from agentlightning.types.record import WriteBatch, WriteResult

if TYPE_CHECKING:
    from tests.integration.pipeline.conftest import Programs

_PREFIX = """
import sys, time
from agentlightning.pipeline.process import flush
from agentlightning.tracer.provider import get_tracer
def emit(count):
    for _ in range(count):
        get_tracer().start_span("work").end()
"""

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def run_benchmark(name: str, *arguments: str, timeout_s: float = 19) -> dict[str, float]:
    """Run a benchmark, whose exit code says whether it kept its bars, and return the figures of its last line."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_burst_to_a_slow_server_loses_nothing() -> None:
    """3,000 spans, half a second for each batch: 0 lost, and 99 of 100 calls take less than a millisecond."""
    figures = run_benchmark("burst", "--spans", "3000", "--seconds-per-batch", "0.5")
    assert figures["in_store"] == 3_000
    assert figures["spilled_meanwhile"] > 500


async def test_lowering_never_thins_the_rollouts_of_a_trainer(tmp_path: Path) -> None:
    """With the rate at a 64th, a runner's rollouts are all there and whole; the program's own are sampled."""
    while sampling.lowered() > 1 / 64:
        sampling.lower(busy=True)
    store = open_store(str(tmp_path / "x.db"))

    class Agent(LitAgent[int]):
        def rollout(self, task: int, resources: object, rollout: object) -> float:
            emit_message(str(task))
            return 1.0

    try:
        tracer = OtelTracer()
        with LitAgentRunner[int](tracer).run_context(agent=Agent(), store=store) as runner:
            ids = [(await runner.step(number)).rollout_id for number in range(12)]
        names = [[span.name for span in await store.query_spans(one, "latest")] for one in ids]
        for _ in range(40):
            with tracer.trace_context("own", store=store):
                emit_message("own")
        await asyncio.to_thread(flush, 5)
        own = [one for one in await store.query_rollouts() if one.rollout_id not in ids]
        kept = sum([len(await store.query_spans(one.rollout_id)) for one in own])
    finally:
        while sampling.lowered() < 1:
            sampling.lower(busy=False)
        store.close()
    assert names == [["agentlightning.message", "agentlightning.reward"]] * 12
    assert len(own) == 40
    assert kept < 10


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_long_burst_to_a_slow_server_loses_nothing() -> None:
    """20,000 spans, one second for each batch."""
    assert run_benchmark("burst", timeout_s=230)["in_store"] == 20_000


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_ten_minutes_change_nothing() -> None:
    """500 spans a second: memory, threads and file descriptors stay where they are."""
    assert run_benchmark("soak", timeout_s=780)["lost"] == 0


def alerts(programs: Programs) -> list[tuple[str, str]]:
    """Return the names of the alerts in the store, with the rollout of each."""
    connection = sqlite3.connect(programs.store)
    query = "SELECT json_extract(events, '$[0].attributes.name'), rollout_id FROM spans WHERE name = ?"
    try:
        return list(connection.execute(query, ("agentlightning.alert",)))
    finally:
        connection.close()


def test_a_slow_store_makes_one_event_and_calls_the_program(programs: Programs) -> None:
    """A file that another process keeps: the event lies in the trace, once, and the function was called."""
    programs.run("emit(1)")
    connection = sqlite3.connect(programs.store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    code = """
import agentlightning
seen = []
agentlightning.add_alert_listener(seen.append)
with agentlightning.OtelTracer().trace_context("r"):
    emit(3)
    until = time.monotonic() + 60
    while not seen and time.monotonic() < until: time.sleep(0.05)
    print(seen[0].name, seen[0].threshold, flush=True)
    sys.stdin.readline()
    assert flush(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", _PREFIX + code], env={**programs.environment, "AGL_WATCH_LATENCY_S": "0.5"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline() if process.stdout else ""
    finally:
        connection.rollback()
        connection.close()
    process.communicate("\n", timeout=60)
    assert line.split() == ["latency", "0.5"]
    assert process.returncode == 0
    found = alerts(programs)
    assert [name for name, _ in found] == ["latency"]
    connection = sqlite3.connect(programs.store)
    rollouts = {row[0] for row in connection.execute("SELECT rollout_id FROM spans WHERE name = 'work'")}
    connection.close()
    assert found[0][1] in rollouts
    assert programs.account().total_lost == 0


class Server:
    """A server of a store that takes its time."""

    def __init__(self, pause_s: float) -> None:
        """Answer each batch after *pause_s* seconds."""
        self.spans: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                batch = msgspec.msgpack.decode(self.rfile.read(int(self.headers["content-length"])), type=WriteBatch)
                outer.spans += [span.span_id for span in batch.spans if span.end_ns is not None]
                time.sleep(pause_s)
                answer = msgspec.json.encode(WriteResult(len(batch.spans)))
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize("way", ["default", "argument"])
def test_a_slow_server_is_left_for_the_next_one(programs: Programs, way: str) -> None:
    """Of two servers the first is slow: it is told, the second gets all that follows, and no span is missing."""
    slow, quick = Server(0.6), Server(0.0)
    code = """
import agentlightning
from agentlightning.store import LightningStoreClient
seen = []
agentlightning.add_alert_listener(seen.append)
url = os.environ["URL"]
store = LightningStoreClient(url) if url else None
with agentlightning.OtelTracer().trace_context("r", store=store):
    emit(10)
    until = time.monotonic() + 60
    while not seen and time.monotonic() < until: time.sleep(0.02)
    time.sleep(0.7)  # the request under way ends
    emit(10)
assert flush(5)
print(seen[0].name, account().stored, account().total_lost)
"""
    url = f"{slow.url},{quick.url}"
    here: dict[str, str] = {"AGL_STORE": url, "URL": ""} if way == "default" else {"URL": url}
    try:
        more = {"XDG_STATE_HOME": str(programs.folder), "AGL_WATCH_LATENCY_S": "0.3"}
        output = programs.run(code, status=0, **here, **more)
    finally:
        slow.stop()
        quick.stop()
    # 20 spans, and the alert itself
    assert output.split() == ["latency", "21", "0"]
    assert len(quick.spans) >= 10
    assert len({*slow.spans, *quick.spans}) == 21


def test_little_memory_frees_what_is_held(programs: Programs) -> None:
    """Above the threshold of the watch: an event, and traces that wait for a tail rule are let go, counted."""
    code = """
emit(1)
import agentlightning
agentlightning.configure(sample_rate=0.0, tail_errors=True)
emit(200)
time.sleep(0.2)
agentlightning.configure(watch_memory=0.0001)
until = time.monotonic() + 60
while account().lost.get("sampled", 0) < 200 and time.monotonic() < until: time.sleep(0.05)
print(account().lost)
"""
    assert programs.run(code).strip() == "{'sampled': 200}"
    assert [name for name, _ in alerts(programs)] == ["memory"]


def test_the_memory_threshold_bounds_what_waits(programs: Programs) -> None:
    """4 MB for all: a store that nobody reaches and held traces of 40 MB; everything is spilled or counted."""
    code = """
import agentlightning
agentlightning.configure(memory_threshold=2**22, sample_rules="keep*=keep", sample_rate=0.5, tail_errors=True)
text = "x" * 2000
used = []
worker = get_pipeline().worker
for number in range(8000):
    tracer.start_span("work" if number % 2 else "keep", attributes={"text": text}).end()
    if number % 100 == 0:
        used.append(worker._queue.bytes + worker._tail.bytes + worker._exporter.bytes)
flush(3)
get_pipeline().begin_exit()
done = account()
print(max(used) < 1.3 * 2**22, done.produced == done.stored + done.waiting + done.total_lost, sorted(done.lost))
"""
    output = programs.run(code, AGL_STORE="http://127.0.0.1:9", AGL_FLUSH_TIMEOUT_S="1")
    assert output.split(maxsplit=2)[:2] == ["True", "True"]
    assert output.split(maxsplit=2)[2].strip() == "['sampled']"
