"""How many spans a second become durable: in process, and produced by one thread through the SDK.

1 KB records made beforehand are written in batches of 500 (the whole of the store's work: facts, packing, one statement
and one fsync a batch, without the value layer of redaction), beside the bare insertion of the same rows by the same
statement into the same schema, in turn. Then one thread makes spans of 1 KB as fast as it can; all must be stored.

Usage: python benchmarks/ingest.py [--spans 20000] [--rounds 5] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.cli.bench.ingest import ATTRIBUTES, in_fresh_folder, ours, raw, records
from agentlightning.cli.bench.machine import described

if TYPE_CHECKING:
    from agentlightning.types.record import SpanRecord

BAR_PER_S, BAR_RATIO, BAR_SDK_PER_S = 25_000, 0.4, 8_000

SDK_PROGRAM = """
import json, sys, time
from agentlightning.pipeline.process import account, flush
from agentlightning.tracer.provider import get_tracer
attributes = json.loads(sys.argv[2])
tracer = get_tracer()
tracer.start_span("warm").end()
flush(30)
count = int(sys.argv[1])
began = time.perf_counter()
for _ in range(count):
    tracer.start_span("ChatCompletion", attributes=attributes).end()
made = time.perf_counter() - began
flush(60)
taken = time.perf_counter() - began
done = account()
print(json.dumps({"per_s": count / taken, "made_per_s": count / made, "lost": done.total_lost + done.waiting,
                  "stored": done.stored - 1}))
"""


def through_sdk(folder: Path, count: int) -> dict[str, float]:
    """Return the figures of one thread in a program of its own that makes *count* spans and waits for the store."""
    environment = {**os.environ, "AGL_STORE": str(folder / "sdk.db")}
    environment.update(AGL_ROLLOUT_ID="ro-bench", AGL_ATTEMPT_ID="at-bench")  # as agl run does
    command = [sys.executable, "-c", SDK_PROGRAM, str(count), json.dumps(ATTRIBUTES)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def profile(spans: list[SpanRecord]) -> None:
    """Print where the time of the store's writer goes."""
    profiler = cProfile.Profile()
    profiler.enable()
    in_fresh_folder(lambda folder: ours(folder, spans))
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    spans = records(options.spans, 1)
    if options.profile:
        profile(spans)
        return
    rounds = [
        (in_fresh_folder(lambda folder: ours(folder, spans)), in_fresh_folder(lambda folder: raw(folder, spans)))
        for _ in range(options.rounds)
    ]
    with tempfile.TemporaryDirectory() as folder:
        sdk = through_sdk(Path(folder), options.spans)
    print(described())
    figures = {
        "ingest_per_s": round(statistics.median(mine for mine, _ in rounds)),
        "raw_insert_per_s": round(statistics.median(bare for _, bare in rounds)),
        "ratio": round(statistics.median(mine / bare for mine, bare in rounds), 3),
        "sdk_per_s": round(sdk["per_s"]),
        "sdk_made_per_s": round(sdk["made_per_s"]),
        "sdk_lost": sdk["lost"],
    }
    bars = {"ingest_per_s": BAR_PER_S, "ratio": BAR_RATIO, "sdk_per_s": BAR_SDK_PER_S, "sdk_lost": 0}
    for name, value in figures.items():
        print(f"{name:18} {value:>10} {f'(bar {bars[name]})' if name in bars else ''}")
    print(json.dumps({"machine": described(), **figures}))


if __name__ == "__main__":
    main()
