"""How many spans a second a server makes durable: from our client, from OpenTelemetry's exporter, from live spans.

The server is a process on a core of its own, the sender on another one. Spans are of about 1 KB. Three ways:

- client: ready records in batches of 500, encoded and sent by our client as the pipeline does (redacted once);
- otlp: ready ``ExportTraceServiceRequest`` bodies of 500 spans, one after the other;
- live: one thread makes spans through the SDK as fast as it can; all must be stored (the journal on the disk is on).

Printed for each: spans a second by the clock, and the processor time (user and system) that the server, and all of its
threads, took for a span, which other programs on the machine disturb less. With arize-phoenix in an environment of its
own (--phoenix PYTHON), the same OTLP bodies are sent to it, and the time runs until all of them are in its database.

Usage: python benchmarks/serve.py [--spans 20000] [--rounds 3] [--phoenix PYTHON]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from ingest import ATTRIBUTES, SDK_PROGRAM, records

from agentlightning.pipeline.redaction import rules_hash
from agentlightning.server.forward.message import message_of
from agentlightning.store.batch_client import BatchClient
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from agentlightning.types.record import SpanRecord

BATCH = 500
BARS = {"client": 20_000, "otlp": 10_000, "live": 8_000}
SENDERS = 2
"""Requests of our client that are under way at once, as the processes of a training run send them."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Served:
    """A server process on the first core."""

    def __init__(self, process: subprocess.Popen[str], url: str, database: Path) -> None:
        """Describe it."""
        self.url = url
        self.database = database
        self._process = process
        self._before_s = self._used_s()

    def _used_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def start_clock(self) -> None:
        """Count processor time from now on."""
        self._before_s = self._used_s()

    def cpu_us(self, spans: int) -> float:
        """Return the processor time for a span since ``start_clock``, in microseconds."""
        return 1e6 * (self._used_s() - self._before_s) / spans

    def rss_mb(self) -> float:
        """Return the resident memory."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def stored(self) -> int:
        """Return how many spans are in its file."""
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute("SELECT count(*) FROM spans WHERE end_ns IS NOT NULL").fetchone()[0]
        finally:
            connection.close()


@contextmanager
def server(folder: Path) -> Generator[Served, None, None]:
    """Run ``agl store serve`` on the first core."""
    store = folder / "served.db"
    command = [sys.executable, "-m", "agentlightning.cli", "store", "serve", "--store", str(store), "--port", "0"]
    process = subprocess.Popen([*pinned(0), *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = process.stderr.readline().split()[-1]
    try:
        yield Served(process, url, store)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def pinned(core: int) -> list[str]:
    """Return the beginning of a command that keeps to one core."""
    return ["taskset", "-c", str(core % (os.cpu_count() or 1))]


def from_client(served: Served, spans: list[SpanRecord]) -> float:
    """Send ready records by our client and return spans a second."""
    batches = [
        WriteBatch(spans=spans[start : start + BATCH], rules=rules_hash()) for start in range(0, len(spans), BATCH)
    ]
    lock = threading.Lock()

    def send() -> None:
        client = BatchClient(served.url)
        while True:
            with lock:
                batch = batches.pop() if batches else None
            if batch is None:
                break
            client.write_batch(batch)
        client.close()

    served.start_clock()
    began = time.perf_counter()
    threads = [threading.Thread(target=send) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(spans) / (time.perf_counter() - began)


def otlp_bodies(spans: list[SpanRecord]) -> list[bytes]:
    """Return the same spans as OpenTelemetry's exporter writes them, without our rollout and attempt."""
    bodies: list[bytes] = []
    for start in range(0, len(spans), BATCH):
        message = message_of(spans[start : start + BATCH])
        for span in message.resource_spans[0].scope_spans[0].spans:
            kept = [pair for pair in span.attributes if not pair.key.startswith("agentlightning.")]
            span.ClearField("attributes")
            span.attributes.extend(kept)
        bodies.append(message.SerializeToString())
    return bodies


def from_otlp(served: Served, bodies: list[bytes], count: int) -> float:
    """Send ready OTLP requests one after the other and return spans a second."""
    headers = {"content-type": "application/x-protobuf"}
    served.start_clock()
    with httpx.Client(headers=headers, timeout=60) as client:
        began = time.perf_counter()
        for body in bodies:
            client.post(f"{served.url}/v1/traces", content=body).raise_for_status()
        return count / (time.perf_counter() - began)


def from_live_spans(served: Served, count: int) -> float:
    """Make spans through the SDK in a program on the second core and return how many a second are stored."""
    environment = {**os.environ, "AGL_STORE": served.url, "AGL_ROLLOUT_ID": "ro-bench", "AGL_ATTEMPT_ID": "at-bench"}
    command = [*pinned(1), sys.executable, "-c", SDK_PROGRAM, str(count), json.dumps(ATTRIBUTES)]
    served.start_clock()
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    if found["lost"] or found["stored"] != count:
        sys.exit(f"of {count} live spans {found['stored']} were stored and {found['lost']} lost")
    return float(found["per_s"])


def measured(name: str, spans: list[SpanRecord], bodies: list[bytes]) -> tuple[float, float]:
    """Return spans a second and microseconds of the server's processor for a span, in a server of its own."""
    ways: dict[str, Callable[[Served], float]] = {
        "client": lambda served: from_client(served, spans),
        "otlp": lambda served: from_otlp(served, bodies, len(spans)),
        "live": lambda served: from_live_spans(served, len(spans)),
    }
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as served:
        httpx.get(f"{served.url}/health")
        per_s = ways[name](served)
        cpu_us = served.cpu_us(len(spans))
        if served.stored() < len(spans):
            sys.exit(f"{name}: {served.stored()} of {len(spans)} spans are in the store")
    return per_s, cpu_us


def phoenix_per_s(python: str, bodies: list[bytes], count: int) -> float:
    """Return how many spans a second Phoenix makes durable: until they are in its database, or for at most a minute."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PHOENIX_WORKING_DIR": folder, "PHOENIX_PORT": "6717", "PHOENIX_GRPC_PORT": "6718"}
        command = [*pinned(0), python, "-m", "phoenix.server.main", "serve"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return _until_stored(Path(folder) / "phoenix.db", bodies, count)
        finally:
            process.terminate()
            process.wait(30)


def _until_stored(database: Path, bodies: list[bytes], count: int) -> float:
    with httpx.Client(base_url="http://127.0.0.1:6717", timeout=60) as client:
        for _ in range(240):
            try:
                client.get("/healthz").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        began = time.perf_counter()
        for body in bodies:
            headers = {"content-type": "application/x-protobuf"}
            while client.post("/v1/traces", content=body, headers=headers).status_code == 503:
                time.sleep(0.2)
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    found = 0
    while found < count and time.perf_counter() - began < 60:
        time.sleep(0.2)
        found = connection.execute("SELECT count(*) FROM spans").fetchone()[0]
    connection.close()
    return found / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(BARS))
    parser.add_argument("--phoenix", metavar="PYTHON", help="Interpreter of an environment with arize-phoenix.")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
    spans = records(options.spans, 100)  # the trace id of number 0 to 99 would be zero
    bodies = otlp_bodies(spans)
    machine = f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("opentelemetry-sdk", "fastapi", "uvicorn", "httpx"))
    print(f"{machine}, SQLite {sqlite3.sqlite_version}, {packages}")
    figures: dict[str, object] = {"machine": machine}
    for name in [options.only] if options.only else BARS:
        rounds = [measured(name, spans, bodies) for _ in range(options.rounds)]
        per_s = statistics.median(pair[0] for pair in rounds)
        cpu_us = statistics.median(pair[1] for pair in rounds)
        figures |= {f"{name}_per_s": round(per_s), f"{name}_server_cpu_us": round(cpu_us, 1)}
        possible = 1e6 / cpu_us
        print(
            f"{name:7} {per_s:>9,.0f} spans/s (bar {BARS[name]:,}), server {cpu_us:5.1f} us a span"
            f" = {possible:,.0f} spans/s of a core"
        )
    if options.phoenix:
        few = bodies[: max(1, 2000 // BATCH)]
        per_s = phoenix_per_s(options.phoenix, few, len(few) * BATCH)
        figures["phoenix_otlp_per_s"] = round(per_s, 1)
        print(f"phoenix {per_s:>9,.0f} spans/s")
        if "otlp_per_s" in figures:
            print(f"ratio   {float(str(figures['otlp_per_s'])) / per_s:>9,.0f}")
    else:
        print("phoenix: not measured; name the Python of an environment with arize-phoenix by --phoenix")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
