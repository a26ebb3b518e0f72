"""A traced program that ends 500 spans a second for 10 minutes: does it grow?

Every five seconds (20 times in a short run) its resident memory, threads and file descriptors are read. The slope of
the memory is fitted by least squares over what came after the first fifth (2 of 10 minutes). Every tenth span holds a
reward, every hundredth an error, and each second a rollout begins and ends, so that everything that could pile up does
its work.

Usage: python benchmarks/soak.py [--minutes 10] [--per-second 500]
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
from pathlib import Path

SLOPE_BAR_MIB = 1.0
"""Growth for each 10 minutes."""
_PASSING = 2
"""Descriptors that come and go, such as a connection that is being opened."""

PROGRAM = """
import json, os, sys, threading, time
from opentelemetry.trace import Status, StatusCode
from agentlightning import OtelTracer, emit_reward
from agentlightning.pipeline.process import account, flush
from agentlightning.tracer.provider import get_tracer
seconds, rate = float(sys.argv[1]), int(sys.argv[2])
tracer, rollouts = get_tracer(), OtelTracer()
text = "In a hole in the ground there lived an agent. " * 20
page = os.sysconf("SC_PAGE_SIZE")

def figures():
    resident = int(open("/proc/self/statm").read().split()[1]) * page
    return [time.monotonic() - began, resident / 2**20, threading.active_count(), len(os.listdir("/proc/self/fd"))]

samples, began, number = [], time.monotonic(), 0
while (now := time.monotonic() - began) < seconds:
    with rollouts.trace_context(f"second {int(now)}"):
        for _ in range(rate // 10 * 10):
            number += 1
            if number % 10 == 0:
                emit_reward(number)
            else:
                with tracer.start_as_current_span("work", attributes={"input.value": text, "number": number}) as span:
                    if number % 100 == 1:
                        span.set_status(Status(StatusCode.ERROR))
            ahead = number / rate - (time.monotonic() - began)
            if ahead > 0.01:
                time.sleep(ahead)
    if not samples or now - samples[-1][0] >= min(5, seconds / 20):
        samples.append(figures())
flush(30)
done = account()
print(json.dumps({"samples": samples, "made": number, "produced": done.produced, "stored": done.stored,
                  "lost": done.total_lost, "waiting": done.waiting, "seconds": time.monotonic() - began}))
"""


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through *points*."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def main() -> None:
    """Run the program and print what grew; exit code 1 when something did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--per-second", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "x.db"
        command = [sys.executable, "-c", PROGRAM, str(60 * options.minutes), str(options.per_second)]
        done = subprocess.run(command, env={**os.environ, "AGL_STORE": str(store)}, check=True, stdout=subprocess.PIPE)
        connection = sqlite3.connect(store)
        kept = connection.execute("SELECT count(*) FROM spans WHERE end_ns IS NOT NULL").fetchone()[0]
        connection.close()
    found = json.loads(done.stdout)
    late = [sample for sample in found["samples"] if sample[0] >= 12 * options.minutes]
    grown = slope([(sample[0], sample[1]) for sample in late]) * 600
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    threads, descriptors = sorted({sample[2] for sample in late}), sorted({sample[3] for sample in late})
    figures = {
        "machine": f"{os.cpu_count()} CPUs, {system}",
        "minutes": options.minutes,
        "spans_made": found["made"],
        "spans_per_second": round(found["made"] / found["seconds"], 1),
        "in_store": kept,
        "lost": found["lost"],
        "rss_mib_first": round(late[0][1], 2),
        "rss_mib_last": round(late[-1][1], 2),
        "rss_slope_mib_per_10_min": round(grown, 3),
        "threads": threads,
        "file_descriptors": descriptors,
    }
    for name, value in figures.items():
        print(f"{name:26} {value}")
    print(json.dumps(figures))
    is_flat = len(threads) == 1 and descriptors[-1] - descriptors[0] <= _PASSING
    if grown > SLOPE_BAR_MIB or kept < found["made"] or found["lost"] or not is_flat:
        sys.exit(1)


if __name__ == "__main__":
    main()
