"""A server that takes 1 s for each batch, and a program that ends 20,000 spans as fast as it can.

Nothing may be lost, and the program must not notice: the wall time of each start and end of a span is taken. The server
is a process of its own that commits to a SQLite store after its pause. Afterwards the spans in its store are counted.

Usage: python benchmarks/burst.py [--spans 20000] [--seconds-per-batch 1.0]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

P99_BAR_MS = 1.0
MAX_BAR_MS = 20.0

SERVER = """
import sys, time, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import gzip, msgspec
from agentlightning.store import wire
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.types.record import WriteBatch
writer, pause = SqliteWriter(sys.argv[1]), float(sys.argv[2])
decode = msgspec.msgpack.Decoder(WriteBatch).decode
sizes = []
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        batch = decode(body)
        sizes.append(len(batch.spans))
        if not quick.is_set():
            time.sleep(pause)
        answer = msgspec.json.encode(writer.write_batch(batch))
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def do_GET(self):
        quick.set()  # the burst is over: the rest may come at once
        answer = msgspec.json.encode({"requests": len(sizes), "largest": max(sizes, default=0)})
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *arguments):
        pass
quick = threading.Event()
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""

PROGRAM = """
import json, sys, time, urllib.request
from agentlightning.pipeline.process import account, flush
from agentlightning.tracer.provider import get_tracer
count, url = int(sys.argv[1]), sys.argv[2]
tracer = get_tracer()
attributes = {"input.value": "In a hole in the ground there lived an agent. " * 17}
for _ in range(100):
    tracer.start_span("warm", attributes=attributes).end()
took = []
clock = time.perf_counter_ns
began = clock()
for number in range(count):
    start = clock()
    tracer.start_span("work", attributes=attributes).end()
    took.append(clock() - start)
burst_s = (clock() - began) / 1e9
time.sleep(2)
during = account()
served = json.loads(urllib.request.urlopen(url).read())
flush(120)
done = account()
took.sort()
print(json.dumps({"burst_s": round(burst_s, 2), "p50_us": took[len(took) // 2] / 1e3,
    "p99_ms": took[int(len(took) * 0.99)] / 1e6, "max_ms": took[-1] / 1e6, "lost": done.lost,
    "waiting": done.waiting, "spilled_meanwhile": during.spilled, "stored_meanwhile": during.stored,
    "requests_meanwhile": served["requests"], "largest_request": served["largest"]}))
"""


def measure(spans: int, pause_s: float) -> dict[str, float]:
    """Return the figures of one burst."""
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "x.db"
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(store), str(pause_s)], stdout=subprocess.PIPE, text=True
        )
        try:
            port = server.stdout.readline().strip() if server.stdout else ""
            url = f"http://127.0.0.1:{port}"
            environment = {**os.environ, "AGL_STORE": url, "XDG_STATE_HOME": name, "AGL_WATCH_LATENCY_S": "0"}
            environment |= {"AGL_WATCH_MEMORY": "0", "AGL_WATCH_CPU": "0", "AGL_HTTP_TIMEOUT_S": "60"}
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(spans), url],
                env=environment, check=True, capture_output=True, text=True, timeout=200,
            )  # fmt: skip
        finally:
            server.terminate()
            server.wait(10)
        connection = sqlite3.connect(store)
        kept = connection.execute("SELECT count(*) FROM spans WHERE name = 'work' AND end_ns IS NOT NULL").fetchone()[0]
        connection.close()
    return {"spans": spans, "in_store": kept, **json.loads(done.stdout)}


def main() -> None:
    """Measure and print; exit code 1 when a span is lost or the program noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--seconds-per-batch", type=float, default=1.0)
    options = parser.parse_args()
    began = time.monotonic()
    figures = measure(options.spans, options.seconds_per_batch)
    print(f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}")
    missing = figures["spans"] - figures["in_store"]
    print(f"lost {missing} of {figures['spans']} (bar 0)")
    print(f"user-side p99 {figures['p99_ms']:.3f} ms (bar {P99_BAR_MS}), max {figures['max_ms']:.1f} ms")
    print(json.dumps({**figures, "total_s": round(time.monotonic() - began, 1)}))
    if missing or figures["p99_ms"] > P99_BAR_MS:
        sys.exit(1)


if __name__ == "__main__":
    main()
