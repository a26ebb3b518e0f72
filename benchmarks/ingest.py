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
import platform
import pstats
import sqlite3
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.store.sql.connector import named_queries
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.types.record import ResourceRecord, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 500
BAR_PER_S, BAR_RATIO, BAR_SDK_PER_S = 25_000, 0.4, 8_000

ATTRIBUTES = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "gpt-4o-mini",
    "llm.token_count.prompt": 812,
    "llm.token_count.completion": 97,
    "llm.invocation_parameters": '{"temperature": 0.2, "max_tokens": 512}',
    "input.value": "In a hole in the ground there lived an agent that called tools. " * 8,
    "output.value": "It answered in words and in numbers. " * 7,
}
"""About 1 KB, as an LLM span has them."""


def records(count: int, first: int) -> list[SpanRecord]:
    """Return *count* ended spans whose numbers begin with *first*."""
    resource = ResourceRecord({"service.name": "bench", "telemetry.sdk.language": "python"})
    return [
        SpanRecord(
            rollout_id="ro-bench",
            attempt_id="at-bench",
            counter=number,
            trace_id=f"{number // 100:032x}",
            span_id=f"{number:016x}",
            parent_id=f"{number - 1:016x}",
            name="ChatCompletion",
            start_ns=1_700_000_000_000_000_000 + number,
            end_ns=1_700_000_000_000_000_500 + number,
            attributes=dict(ATTRIBUTES),
            resource=resource,
            scope_name="bench",
            process="bench/1/1",
        )
        for number in range(first, first + count)
    ]


def ours(folder: Path, spans: list[SpanRecord]) -> float:
    """Return how many of *spans* a second become durable through the store's writer, opened beforehand."""
    writer = SqliteWriter(folder / "ours.db")
    batches = [WriteBatch(spans=spans[start : start + BATCH]) for start in range(0, len(spans), BATCH)]
    began = time.perf_counter()
    for batch in batches:
        if writer.write_batch(batch).stored != len(batch.spans):
            raise SystemExit("a span is missing")
    taken = time.perf_counter() - began
    writer.close()
    return len(spans) / taken


def raw(folder: Path, spans: list[SpanRecord]) -> float:
    """Return how many ready rows a second the same statement inserts into the same schema, durably."""
    SqliteWriter(folder / "source.db").write_batch(WriteBatch(spans=spans[:BATCH]))
    source = sqlite3.connect(folder / "source.db")
    columns = "trace_id, span_id, parent_id, rollout_id, attempt_id, sequence_id, name, kind, start_ns, end_ns, "
    columns += "status_code, status_description, source_id, facts, trace_state, links, events, attributes, packed"
    one = list(source.execute(f"SELECT {columns} FROM spans LIMIT 1").fetchone())
    source.close()
    SqliteWriter(folder / "raw.db").close()
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    slots = ",".join(["(" + ",".join("?" * len(one)) + ")"] * BATCH)
    statement = named_queries()["add_ended_spans"].replace("{rows}", slots)
    rows = [[span.trace_id, span.span_id, span.parent_id, *one[3:5], span.counter, *one[6:]] for span in spans]
    batches = [[value for row in rows[start : start + BATCH] for value in row] for start in range(0, len(rows), BATCH)]
    began = time.perf_counter()
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(statement, batch)
        connection.execute("COMMIT")
    taken = time.perf_counter() - began
    connection.close()
    return len(spans) / taken


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
    import subprocess  # noqa: PLC0415 - only here

    environment = {**os.environ, "AGL_STORE": str(folder / "sdk.db")}
    environment.update(AGL_ROLLOUT_ID="ro-bench", AGL_ATTEMPT_ID="at-bench")  # as agl run does
    command = [sys.executable, "-c", SDK_PROGRAM, str(count), json.dumps(ATTRIBUTES)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def in_fresh_folder(measure: Callable[[Path], float]) -> float:
    """Return what *measure* says in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder))


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
    machine = f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, SQLite {sqlite3.sqlite_version}, opentelemetry-sdk {version('opentelemetry-sdk')}")
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
    print(json.dumps({"machine": machine, **figures}))


if __name__ == "__main__":
    main()
