"""What a store costs as it grows: inserting, reading one rollout, listing.

Fills an SQLite store with rollouts of 100 spans of about 1 KB and prints, at each size, the cost of an insert through
``write_batch`` and how long ``query_spans`` of one rollout and ``agl ls`` take.

Usage: python benchmarks/store.py [--sizes 10000,100000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentlightning.store import SqliteLightningStore
from agentlightning.types.record import AttemptEnd, ResourceRecord, RolloutStart, SpanRecord, WriteBatch

SPANS = 100
RESOURCE = ResourceRecord({"service.name": "bench"})


def rollout_batch(number: int) -> WriteBatch:
    """Return a finished rollout of 100 spans."""
    rollout_id, attempt_id, trace_id = f"ro-{number:016x}", f"at-{number:016x}", secrets.token_hex(16)
    start_ns = time.time_ns()
    spans = [
        SpanRecord(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            counter=index,
            trace_id=trace_id,
            span_id=secrets.token_hex(8),
            name=f"step {index}",
            start_ns=start_ns + index,
            end_ns=start_ns + index + 1000,
            resource=RESOURCE,
            attributes={
                "gen_ai.request.model": "gpt-4o-mini",
                "gen_ai.usage.input_tokens": 100,
                "input.value": secrets.token_hex(400),
            },
        )
        for index in range(1, SPANS + 1)
    ]
    start = RolloutStart(
        rollout_id=rollout_id, attempt_id=attempt_id, project="default", input="bench", start_ns=start_ns
    )
    end = AttemptEnd(rollout_id=rollout_id, attempt_id=attempt_id, status="succeeded", end_ns=start_ns + 10**6)
    return WriteBatch(starts=[start], spans=spans, ends=[end])


def fill(store: SqliteLightningStore, done: int, wanted: int) -> float:
    """Add rollouts up to *wanted* spans and return the microseconds that one of the last 5,000 spans took to insert."""
    batches = (rollout_batch(number) for number in range(done // SPANS, wanted // SPANS))
    times: list[float] = []
    for batch in batches:
        started = time.perf_counter()
        store.write_batch(batch)
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times[-50:]) / SPANS


def read_ms(store: SqliteLightningStore, spans: int) -> float:
    """Return the median milliseconds of ``query_spans`` of a rollout, over 20 of them anywhere in the store."""

    async def work() -> list[float]:
        times: list[float] = []
        for _ in range(20):
            rollout_id = f"ro-{random.randrange(spans // SPANS):016x}"
            started = time.perf_counter()
            found = await store.query_spans(rollout_id)
            times.append(1e3 * (time.perf_counter() - started))
            if len(found) != SPANS:
                msg = f"{rollout_id} has {len(found)} spans"
                raise SystemExit(msg)
        return times

    return statistics.median(asyncio.run(work()))


def list_s(path: Path) -> float:
    """Return the seconds that ``agl ls`` takes as a program."""
    command = [sys.executable, "-m", "agentlightning.cli", "ls", "--store", str(path)]
    times: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print a table with a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--folder", default=None)
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    print("| spans | file MB | insert us/span | query_spans of 100 ms | agl ls s |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "store.db"
        store = SqliteLightningStore(path)
        done = 0
        for size in sizes:
            insert_us = fill(store, done, size)
            done = size
            row = [f"{size:,}", f"{path.stat().st_size / 1e6:,.0f}", f"{insert_us:.0f}", f"{read_ms(store, size):.1f}"]
            print(f"| {' | '.join(row)} | {list_s(path):.2f} |", flush=True)
        store.close()


if __name__ == "__main__":
    main()
