"""What capture costs the program: thread CPU time per span, and wall time while the worker is busy.

All candidates run interleaved in one process, round by round; a ratio is the median of the rounds' ratios.

Usage: python benchmarks/overhead.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import use_span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Tracer

SPANS = 400
"""Spans in one measurement; fewer than any queue holds."""

ATTRIBUTES = {f"attribute.{index:02}": "v" * 40 for index in range(20)}


class NullExporter(SpanExporter):
    """Takes every span and does nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Do nothing."""
        _ = spans
        return SpanExportResult.SUCCESS


def span_with(tracer: Tracer, attributes: dict[str, str | float]) -> Callable[[], None]:
    """Return an operation that makes one span with *attributes* given at its start."""

    def operation() -> None:
        tracer.start_span("work", attributes=attributes).end()

    return operation


def thread_time_us(operation: Callable[[], object]) -> float:
    """Return the CPU time of this thread for one operation, in microseconds."""
    start = time.thread_time_ns()
    for _ in range(SPANS):
        operation()
    return (time.thread_time_ns() - start) / SPANS / 1e3


def wall_time_us(operation: Callable[[], object]) -> float:
    """Return the wall time for one operation, in microseconds, whatever else runs meanwhile."""
    start = time.perf_counter_ns()
    for _ in range(SPANS):
        operation()
    return (time.perf_counter_ns() - start) / SPANS / 1e3


class Candidates:
    """The operations that are compared."""

    def __init__(self) -> None:
        """Make all providers; ours is the process's own, another one is joined."""
        from agentlightning import (  # noqa: PLC0415 - AGL_STORE is set
            MessageEvent,
            emit_event,
            emit_message,
            emit_reward,
            register_event_type,
        )
        from agentlightning.pipeline.process import get_pipeline  # noqa: PLC0415 - see above
        from agentlightning.tracer.processor import CaptureProcessor  # noqa: PLC0415 - see above
        from agentlightning.tracer.provider import get_provider  # noqa: PLC0415 - see above

        self.pipeline = get_pipeline()
        bare, batch, joined = TracerProvider(), TracerProvider(), TracerProvider()
        batch.add_span_processor(BatchSpanProcessor(NullExporter()))
        joined.add_span_processor(CaptureProcessor({}, stamping=True))
        tracers = {"bare": bare, "batch": batch, "joined": joined, "own": get_provider()}
        self.span = {name: span_with(one.get_tracer("bench"), dict(ATTRIBUTES)) for name, one in tracers.items()}
        self.current = get_provider().get_tracer("bench").start_span("rollout")
        self.reward = {
            "batch": span_with(batch.get_tracer("bench"), {"reward": 1.0}),
            "own": lambda: emit_reward(1.0),
        }
        register_event_type("bench.step")
        self.event = {
            "message": lambda: emit_message("hi"),
            "event": lambda: emit_event(MessageEvent("hi")),
            "custom": lambda: emit_event("bench.step", {"attempt": 2}),
        }

    def idle(self) -> AbstractContextManager[object]:
        """Return a context in which our worker does nothing; the queue keeps what comes."""
        return self.pipeline.worker.busy

    def settle(self) -> None:
        """Wait until everything is written."""
        if not self.pipeline.flush(60):
            sys.exit("the store does not keep up; run the benchmark on a quieter machine")


def compare(
    candidates: Candidates,
    operations: dict[str, Callable[[], object]],
    measure: Callable[[Callable[[], object]], float],
    rounds: int,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, list[float]]:
    """Measure all *operations* in turn, *rounds* times, each round in another order."""
    times: dict[str, list[float]] = {name: [] for name in operations}
    names = list(operations)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            candidates.settle()
            with context():
                taken = measure(operations[name])
            if number:  # the first round warms up
                times[name].append(taken)
    return times


def ratio(times: dict[str, list[float]], ours: str, peer: str) -> float:
    """Return the median over the rounds of ours by theirs."""
    return statistics.median(mine / theirs for mine, theirs in zip(times[ours], times[peer], strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AGL_STORE"] = str(Path(folder) / "bench.db")
        candidates = Candidates()
        cpu = compare(candidates, dict(candidates.span), thread_time_us, rounds, candidates.idle)
        wall = compare(candidates, {n: candidates.span[n] for n in ("batch", "own")}, wall_time_us, rounds)
        with use_span(candidates.current):  # a reward is given inside a rollout
            reward = compare(candidates, dict(candidates.reward), thread_time_us, rounds, candidates.idle)
            event = compare(candidates, dict(candidates.event), thread_time_us, rounds, candidates.idle)
        candidates.settle()
    rows = [
        ("span, our provider / bare SDK", cpu, "own", "bare", 1.25),
        ("span, joined provider / bare SDK", cpu, "joined", "bare", 1.4),
        ("span, wall, worker busy / batch processor", wall, "own", "batch", 1.2),
        ("emit_reward / SDK span with batch processor", reward, "own", "batch", 0.3),
        ("emit_event, receipt thrown away / emit_message", event, "event", "message", 2.0),
        ("emit_event of a custom type / emit_message", event, "custom", "message", 2.2),
    ]
    print(
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}, ", end=""
    )
    print(f"opentelemetry-sdk {version('opentelemetry-sdk')}, agentlightning {version('agentlightning')}")
    results: dict[str, dict[str, float]] = {}
    for label, times, ours, peer, bar in rows:
        figures = {
            "ours_us": round(statistics.median(times[ours]), 2),
            "peer_us": round(statistics.median(times[peer]), 2),
            "ratio": round(ratio(times, ours, peer), 3),
            "bar": bar,
        }
        results[label] = figures
        print(
            f"{label:46} {figures['ours_us']:8.2f} us {figures['peer_us']:8.2f} us  {figures['ratio']:.3f} (bar {bar})"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
