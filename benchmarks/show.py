"""Measure from a cold start how fast recorded rollouts are shown.

Makes two stores: one of 100,000 rollouts with noted totals, one with a rollout of 30,000 spans (10,000 LLM calls, each
with a prompt). Then starts ``agl`` as a user does and takes the time until it has ended; for the tree until its first
50 lines, totals among them, have arrived.

Promise: ``agl ls`` under 0.5 s, the first 50 lines of ``agl show`` under 1 s.

Usage: python benchmarks/show.py [--rollouts 100000] [--spans 30000] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning import open_store
from agentlightning.types.record import AttemptEnd, ResourceRecord, RolloutStart, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

LS_S, SHOW_S = 0.5, 1.0
LINES = 50
START_NS = 1_790_000_000 * 10**9
RESOURCE = ResourceRecord({"service.name": "benchmark"})
TOTALS = {"spans": 12, "llm_calls": 4, "fresh_tokens": 4000, "output_tokens": 300, "cost": "0.0012", "cost_known": 4}


def make_rollouts(path: Path, count: int) -> None:
    """Write *count* rollouts that have ended, with their totals noted."""
    store = open_store(str(path))
    for first in range(0, count, 1000):
        batch = WriteBatch()
        for number in range(first, min(count, first + 1000)):
            rollout, attempt = f"ro-{number:016x}", f"at-{number:016x}"
            at_ns = START_NS + number * 10**9
            batch.starts.append(
                RolloutStart(
                    rollout_id=rollout,
                    attempt_id=attempt,
                    project="default",
                    input=f"python agent.py {number}",
                    start_ns=at_ns,
                )
            )
            batch.ends.append(
                AttemptEnd(
                    rollout_id=rollout,
                    attempt_id=attempt,
                    status="succeeded",
                    end_ns=at_ns + 3 * 10**9,
                    metadata={"totals": TOTALS},
                )
            )
        store.write_batch(batch)
    store.close()


def spans(count: int) -> Iterator[SpanRecord]:
    """Yield the spans of one rollout: agents with steps, in each a model call with its prompt and a tool."""
    prompt = "Plan a walk through the old town. " * 20
    for number in range(count):
        place = number % 30
        parent = None if not place else f"{number - place + 1:016x}"
        kind = ("LLM", "TOOL", "CHAIN")[place % 3] if place else "AGENT"
        attributes = {"openinference.span.kind": kind}
        if kind == "LLM":
            attributes |= {
                "llm.model_name": "gpt-4o-mini",
                "llm.provider": "openai",
                "llm.token_count.prompt": 1000 + number % 7,
                "llm.token_count.completion": 50,
                "llm.input_messages.0.message.role": "user",
                "llm.input_messages.0.message.content": prompt,
            }
        yield SpanRecord(
            rollout_id="ro-large",
            attempt_id="at-large",
            counter=number + 1,
            trace_id="a" * 32,
            span_id=f"{number + 1:016x}",
            parent_id=parent,
            name=f"{kind.lower()} {number}",
            start_ns=START_NS + number * 10**6,
            end_ns=START_NS + (number + 1) * 10**6,
            attributes=attributes,
            resource=RESOURCE,
            process="host/1/1",
        )


def make_large(path: Path, count: int) -> None:
    """Write one rollout of *count* spans."""
    store = open_store(str(path))
    start = RolloutStart(rollout_id="ro-large", attempt_id="at-large", project="default", start_ns=START_NS)
    batch = WriteBatch(starts=[start])
    for span in spans(count):
        batch.spans.append(span)
        if len(batch.spans) == 1000:
            store.write_batch(batch)
            batch = WriteBatch()
    store.write_batch(batch)
    store.close()


def cold(arguments: list[str], lines: int | None = None) -> float:
    """Run ``agl`` in a new process and return the seconds until its end, or until so many lines have come."""
    command = [sys.executable, "-m", "agentlightning.cli", *arguments]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            sys.exit("no output")
        found = [line for line, _ in zip(process.stdout, range(lines or sys.maxsize), strict=False)]
        elapsed = time.perf_counter() - begin
        process.stdout.close()
        process.terminate()
    if len(found) < (lines or 1):
        sys.exit(f"agl {' '.join(arguments)} printed {len(found)} lines only")
    return elapsed


def _cpu_s() -> float:
    """Return the processor time of all processes that were started here and have ended: it says what load hides."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Make the stores, measure, print; exit code 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--spans", type=int, default=30_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        many, large = Path(folder, "many.db"), Path(folder, "large.db")
        make_rollouts(many, options.rollouts)
        make_large(large, options.spans)
        cases: list[tuple[str, list[str], int | None, float | None]] = [
            ("agl --version", ["--version"], 1, None),
            ("agl ls", ["ls", "--store", str(many)], None, LS_S),
            ("agl ls -n 1000", ["ls", "-n", "1000", "--store", str(many)], None, None),
            (f"agl show, first {LINES} lines", ["show", "--store", str(large)], LINES, SHOW_S),
            ("agl show, all lines", ["show", "--store", str(large)], None, None),
        ]
        figures: dict[str, dict[str, float]] = {}
        for name, arguments, lines, _ in cases:
            # The first run fills the file of prices, as a user's first look does.
            times = [cold(arguments, lines) for _ in range(options.runs + 1)]
            figures[name] = {"first": times[0], "median": statistics.median(times[1:]), "most": max(times[1:])}
            before = _cpu_s()
            cold(arguments, None)
            figures[name]["cpu"] = _cpu_s() - before
    print(
        f"{options.rollouts:,} rollouts, {options.spans:,} spans in one, {options.runs} runs; seconds, cpu to the end"
    )
    print(f"{'':<30}{'first':>8}{'median':>8}{'most':>8}{'cpu':>8}{'promise':>9}")
    kept = True
    for name, _, _, promise in cases:
        found = figures[name]
        shown = f"{promise:>9.1f}" if promise else ""
        print(
            f"{name:<30}{found['first']:>8.2f}{found['median']:>8.2f}{found['most']:>8.2f}{found['cpu']:>8.2f}{shown}"
        )
        kept = kept and (promise is None or found["median"] < promise)
    if options.json:
        options.json.write_text(json.dumps({"python": platform.python_version(), "figures": figures}, indent=1))
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
