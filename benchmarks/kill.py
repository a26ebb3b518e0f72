"""Kill 50 traced programs at random moments and count the spans that are missing.

Each program computes in pure Python in its main thread while another thread ends about 500 spans a second and writes
the id and the time of each to a file of its own. Promise: no span that ended more than 200 ms before the SIGKILL is
missing, and the span that was open is shown as interrupted.

Usage: python benchmarks/kill.py [--programs 50]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentlightning import open_store
from agentlightning._internal.ids import is_process_gone
from agentlightning.view.tree import build

PROMISE_MS = 200

PROGRAM = """
import os, sys, threading, time
from opentelemetry import trace
tracer = trace.get_tracer("kill")
log = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def emit():
    with tracer.start_as_current_span("never ends"):
        while True:
            with tracer.start_as_current_span("work", attributes={f"key.{i}": "v" * 40 for i in range(20)}) as span:
                pass
            os.write(log, f"{span.get_span_context().span_id:016x} {time.time_ns()}\\n".encode())
            time.sleep(0.002)
threading.Thread(target=emit, daemon=True).start()
number = 0
while True:
    number = (number * 31 + 7) % 1000003
"""


def one_program(folder: Path, index: int, seed: random.Random) -> dict[str, float]:
    """Run one program, kill it, and return what is missing (spans) and how old the newest durable span was (ms)."""
    log, store = folder / f"{index}.log", folder / f"{index}.db"
    script = folder / "program.py"
    script.write_text(PROGRAM)
    command = [sys.executable, "-m", "agentlightning.cli", "run", "--store", str(store), sys.executable, str(script)]
    agl = subprocess.Popen([*command, str(log)], stderr=subprocess.PIPE, text=True)
    while not log.exists() or not log.stat().st_size:
        time.sleep(0.01)
    time.sleep(seed.uniform(0.2, 2.0))
    child = int(Path(f"/proc/{agl.pid}/task/{agl.pid}/children").read_text().split()[0])
    os.kill(child, signal.SIGKILL)
    killed_ns = time.time_ns()
    line = agl.communicate(timeout=60)[1]
    if agl.returncode != -signal.SIGKILL:
        sys.exit(f"agl run ended with {agl.returncode}, not by SIGKILL: {line}")
    return compare(log, store, killed_ns)


def compare(log: Path, store: Path, killed_ns: int) -> dict[str, float]:
    """Return the figures of one program."""
    ended = dict(line.split() for line in log.read_text().splitlines() if line.count(" ") == 1)
    kept = kept_ids(store)
    late = [(killed_ns - int(when)) / 1e6 for name, when in ended.items() if name not in kept]
    durable = [(killed_ns - int(when)) / 1e6 for name, when in ended.items() if name in kept]
    opened = open_store(str(store))
    rollout = asyncio.run(opened.find_rollout_id("latest"))
    view = build(asyncio.run(opened.query_span_rows(rollout)), is_gone=is_process_gone)
    interrupted = sum(node.state == "interrupted" for node in view.walk())
    return {
        "ended": len(ended),
        "missing": len(late),
        "missing_late": sum(age > PROMISE_MS for age in late),
        "oldest_missing_ms": max(late, default=0.0),
        "newest_durable_ms": min(durable, default=float("inf")),
        "interrupted": interrupted,
    }


def kept_ids(store: Path) -> set[str]:
    """Return the ids of the ended spans in a store."""
    connection = sqlite3.connect(store)
    try:
        return {row[0] for row in connection.execute("SELECT span_id FROM spans WHERE end_ns IS NOT NULL")}
    finally:
        connection.close()


def main() -> None:
    """Kill the programs and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seed = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        results = [one_program(Path(folder), index, seed) for index in range(options.programs)]
    ages = [result["newest_durable_ms"] for result in results]
    system = f"{platform.system()} {platform.machine()}"
    figures = {
        "machine": f"{os.cpu_count()} CPUs, {system}, Python {platform.python_version()}",
        "programs": len(results),
        "spans_ended": sum(result["ended"] for result in results),
        f"missing_older_than_{PROMISE_MS}_ms": sum(result["missing_late"] for result in results),
        "missing_younger": sum(result["missing"] - result["missing_late"] for result in results),
        "newest_durable_span_ms_median": round(statistics.median(ages), 1),
        "newest_durable_span_ms_max": round(max(ages), 1),
        "open_spans_shown_as_interrupted": sum(result["interrupted"] for result in results),
    }
    for name, value in figures.items():
        print(f"{name:36} {value}")
    print(json.dumps(figures))
    if figures[f"missing_older_than_{PROMISE_MS}_ms"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
