"""Measuring how much memory tracing adds to a program that makes spans of 1 KB as fast as it can.

The program runs in processes of its own: once as it is, once traced by us, once with the SDK's batch processor.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from agentlightning.cli.bench.machine import surrounding

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import json, sys, threading, time
mode, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

def resident_mb(field="VmHWM"):
    try:
        for line in open("/proc/self/status"):
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        import psutil
        return psutil.Process().memory_info().rss / 2**20

before = resident_mb("VmRSS")
made = [0] * threads
if mode == "traced":
    from agentlightning.tracer.provider import get_tracer
    tracer = get_tracer()
elif mode == "batch":
    import tempfile, pathlib
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from agentlightning.cli.bench.durable import FileExporter
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(FileExporter(pathlib.Path(sys.argv[4]))))
    tracer = provider.get_tracer("bench")

def work(place):
    until = time.monotonic() + seconds
    text = "In a hole in the ground there lived an agent. " * 20
    while time.monotonic() < until:
        for _ in range(100):
            if mode != "bare":
                tracer.start_span("work", attributes={"input.value": text[place:], "number": made[place]}).end()
            made[place] += 1

workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
for worker in workers: worker.start()
for worker in workers: worker.join()
figures = {"before_mb": before, "peak_mb": resident_mb(), "spans": sum(made)}
if mode == "traced":
    from agentlightning.pipeline.process import account
    done = account()
    figures.update(stored=done.stored, spilled=done.spilled, lost=done.total_lost)
print(json.dumps(figures))
"""


def run(folder: Path, mode: str, threads: int, seconds: float) -> dict[str, float]:
    """Run the program (*mode*: ``bare``, ``traced``, ``batch``) with a store in *folder*, and return its figures."""
    command = [sys.executable, "-c", PROGRAM, mode, str(threads), str(seconds), str(folder / "peer.jsonl")]
    done = subprocess.run(command, env=surrounding(folder), cwd=folder, capture_output=True, check=True, text=True)  # noqa: S603 - our own
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
