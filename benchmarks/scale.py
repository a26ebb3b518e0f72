"""What one insert costs as a store grows to ten million spans, and what reading costs then.

Fills one SQLite store with finished rollouts of 100 small spans (a model call's facts and 40 bytes of text unless
``--text-bytes`` says otherwise, so that ten million fit on an ordinary disk; random ids, as real ones are). At each
size it prints the cost of an insert through ``write_batch`` (median and 99th percentile over the last 200 batches of
100 spans, each its own durable transaction), ``query_spans`` of one rollout, ``query_newest_rollouts`` of 20, and
``agl ls`` as a program. The processor time beside the time of the clock tells what other programs on the machine add.

Promise: ``query_spans`` under 5 ms and ``agl ls`` under 0.5 s at 1,000,000 spans; an insert that does not grow by more
than half from 10,000 to 1,000,000.

Usage: python benchmarks/scale.py [--sizes 10000,1000000] [--text-bytes 40] [--folder DIR]
(10,000,000 spans: 4 GB, ten minutes)
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
from typing import NamedTuple

from agentlightning.store import SqliteLightningStore
from agentlightning.types.record import AttemptEnd, ResourceRecord, RolloutStart, SpanRecord, WriteBatch

SPANS = 100
READ_MS, LIST_S, GROWTH = 5.0, 0.5, 1.5
PROMISED_AT = 1_000_000
RESOURCE = ResourceRecord({"service.name": "bench"})


class Insert(NamedTuple):
    """Cost of an insert, microseconds a span."""

    median_us: float
    p99_us: float
    cpu_us: float


def rollout_batch(number: int, text_bytes: int) -> WriteBatch:
    """Return a finished rollout of 100 spans with so much text each."""
    rollout_id, attempt_id, trace_id = f"ro-{number:016x}", f"at-{number:016x}", secrets.token_hex(16)
    start_ns = time.time_ns()
    spans = [
        SpanRecord(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            counter=index,
            trace_id=trace_id,
            span_id=secrets.token_hex(8),
            name="call",
            start_ns=start_ns + index,
            end_ns=start_ns + index + 1000,
            resource=RESOURCE,
            attributes={"gen_ai.usage.input_tokens": index, "input.value": secrets.token_hex(text_bytes // 2)},
        )
        for index in range(1, SPANS + 1)
    ]
    start = RolloutStart(
        rollout_id=rollout_id, attempt_id=attempt_id, project="default", input="bench", start_ns=start_ns
    )
    end = AttemptEnd(rollout_id=rollout_id, attempt_id=attempt_id, status="succeeded", end_ns=start_ns + 10**6)
    return WriteBatch(starts=[start], spans=spans, ends=[end])


def fill(store: SqliteLightningStore, done: int, wanted: int, text_bytes: int) -> Insert:
    """Add rollouts up to *wanted* spans and return what the last 200 batches cost."""
    times: list[tuple[float, float]] = []
    for number in range(done // SPANS, wanted // SPANS):
        batch = rollout_batch(number, text_bytes)
        clock, cpu = time.perf_counter(), time.thread_time()
        store.write_batch(batch)
        times = [*times[-199:], (time.perf_counter() - clock, time.thread_time() - cpu)]
    clocks = sorted(clock for clock, _ in times)
    us = 1e6 / SPANS
    return Insert(
        us * statistics.median(clocks),
        us * clocks[int(len(clocks) * 0.99) - 1],
        us * statistics.median(cpu for _, cpu in times),
    )


def read_ms(store: SqliteLightningStore, spans: int) -> tuple[float, float]:
    """Return the median milliseconds of ``query_spans`` of a rollout anywhere in the store, and of the newest 20."""

    async def work() -> tuple[list[float], list[float]]:
        one: list[float] = []
        newest: list[float] = []
        for _ in range(40):
            rollout_id = f"ro-{random.randrange(spans // SPANS):016x}"
            started = time.perf_counter()
            found = await store.query_spans(rollout_id)
            one.append(1e3 * (time.perf_counter() - started))
            if len(found) != SPANS:
                sys.exit(f"{rollout_id} has {len(found)} spans")
            started = time.perf_counter()
            await store.query_newest_rollouts(20)
            newest.append(1e3 * (time.perf_counter() - started))
        return one, newest

    one, newest = asyncio.run(work())
    return statistics.median(one), statistics.median(newest)


def list_s(path: Path) -> float:
    """Return the seconds that ``agl ls`` takes as a program, the median of five after a first."""
    command = [sys.executable, "-m", "agentlightning.cli", "ls", "--store", str(path)]
    times: list[float] = []
    for _ in range(6):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    """Print a table with a line for each size; exit code 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", default=f"10000,{PROMISED_AT}")
    parser.add_argument("--text-bytes", type=int, default=40)
    parser.add_argument("--folder", default=None)
    given = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    print("| spans | file MB | insert us/span | p99 | cpu | query_spans of 100, ms | newest 20, ms | agl ls s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    kept, first, done = True, None, 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "store.db"
        store = SqliteLightningStore(path)
        for size in (int(text) for text in given.sizes.split(",")):
            insert = fill(store, done, size, given.text_bytes)
            first, done = first or insert, size
            one_ms, newest_ms = read_ms(store, size)
            ls_s = list_s(path)
            print(
                f"| {size:,} | {path.stat().st_size / 1e6:,.0f} | {insert.median_us:.1f} | {insert.p99_us:.1f} "
                f"| {insert.cpu_us:.1f} | {one_ms:.1f} | {newest_ms:.1f} | {ls_s:.2f} |",
                flush=True,
            )
            if size == PROMISED_AT:
                kept = one_ms < READ_MS and ls_s < LIST_S and insert.cpu_us < GROWTH * first.cpu_us
        store.close()
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
