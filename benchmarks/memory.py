"""How much memory tracing adds to a program that makes spans as fast as it can.

A program makes spans of 1 KB in a tight loop, in 1 and in 4 threads, for some seconds: once with its store, once with a
store that is blocked by a transaction of somebody else's all the time. Its highest resident size is compared with that
of the same program which has loaded the same modules and traces nothing.

Usage: python benchmarks/memory.py [--seconds 5]
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
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

BAR_MB = 50.0

PROGRAM = """
import json, sys, threading, time
mode, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

def resident_mb(field="VmHWM"):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024

before = resident_mb("VmRSS")
made = [0] * threads
if mode == "traced":
    from agentlightning.tracer.provider import get_tracer
    tracer = get_tracer()

def work(place):
    until = time.monotonic() + seconds
    text = "In a hole in the ground there lived an agent. " * 20
    while time.monotonic() < until:
        for _ in range(100):
            if mode == "traced":
                tracer.start_span("work", attributes={"input.value": text[place:], "number": made[place]}).end()
            made[place] += 1

workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
for worker in workers: worker.start()
for worker in workers: worker.join()
figures = {"before_mb": before, "peak_mb": resident_mb(), "spans": sum(made)}
if mode == "traced":
    from agentlightning.pipeline.process import account
    done = account()
    figures.update(stored=done.stored, spilled=done.spilled, lost=done.lost)
print(json.dumps(figures))
"""


def run(folder: Path, mode: str, threads: int, seconds: float) -> dict[str, float]:
    """Run the program and return its figures."""
    environment = {**os.environ, "AGL_STORE": str(folder / "x.db")}
    environment.update(AGL_ROLLOUT_ID="ro-bench", AGL_ATTEMPT_ID="at-bench")  # as agl run does
    command = [sys.executable, "-c", PROGRAM, mode, str(threads), str(seconds)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


@contextmanager
def blocked(folder: Path) -> Generator[None, None, None]:
    """Keep a transaction open on the store that lets nobody else write."""
    from agentlightning.store.url import open_writer  # noqa: PLC0415 - makes the file

    open_writer(str(folder / "x.db")).close()
    connection = sqlite3.connect(folder / "x.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def compare(store: str, threads: int, seconds: float) -> dict[str, float]:
    """Return the figures of a traced program, with what it needs more than one that traces nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = run(folder, "bare", threads, 0.2)
        with blocked(folder) if store == "blocked" else nullcontext():
            traced = run(folder, "traced", threads, seconds)
    return {**traced, "added_mb": round(traced["peak_mb"] - bare["peak_mb"], 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds: float = parser.parse_args().seconds
    print(
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}, ", end=""
    )
    print(f"opentelemetry-sdk {version('opentelemetry-sdk')}, agentlightning {version('agentlightning')}")
    results: dict[str, dict[str, float]] = {}
    for threads in (1, 4):
        for store in ("normal", "blocked"):
            figures = compare(store, threads, seconds)
            results[f"{threads} threads, {store} store"] = figures
            print(
                f"{threads} threads, {store:8} store: {figures['added_mb']:6.1f} MB added (bar {BAR_MB:g}); {figures}"
            )
    print(json.dumps(results))
    if any(result["added_mb"] > BAR_MB for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
