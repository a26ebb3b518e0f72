"""Measuring calls on the calling thread: ours and the OpenTelemetry SDK's, interleaved in one process.

All candidates run in turn, round by round; a ratio is the median of the rounds' ratios, so what else the machine does
meanwhile weighs on both alike. Import it where ``AGL_STORE`` already names the store to write to.
"""

from __future__ import annotations

import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from agentlightning.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Tracer

SPANS = 400
"""Spans in one measurement; fewer than any queue holds."""

ATTRIBUTES = {f"attribute.{index:02}": "v" * 40 for index in range(20)}

Times = dict[str, list[float]]
"""By candidate, one figure a round."""

_SETTLE_S = 60.0


class NullExporter(SpanExporter):
    """Takes every span and does nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Do nothing."""
        _ = spans
        return SpanExportResult.SUCCESS


def span_with(tracer: Tracer, attributes: dict[str, str | float]) -> Callable[[], None]:
    """Return an operation that makes one span with *attributes* given at its start."""

    def operation() -> None:
        """Start one span and end it at once."""
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
            emit_exception,
            emit_message,
            emit_object,
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
        error = ValueError("no")
        self.emit = {
            **self.reward,
            **self.event,
            "object": lambda: emit_object({"a": 1, "b": [1, 2, 3]}),
            "exception": lambda: emit_exception(error),
        }
        """All of them, beside a span of the SDK with one attribute and a batch processor (``batch``)."""

    def idle(self) -> AbstractContextManager[object]:
        """Return a context in which our worker does nothing; the queue keeps what comes."""
        return self.pipeline.worker.busy

    def settle(self) -> None:
        """Wait until everything is written.

        Raises:
            StoreUnavailableError: The machine is too busy for that.
        """
        if not self.pipeline.flush(_SETTLE_S):
            msg = "the store does not keep up; run the benchmark on a quieter machine"
            raise StoreUnavailableError(msg)


def compare(
    candidates: Candidates,
    operations: dict[str, Callable[[], object]],
    measure: Callable[[Callable[[], object]], float],
    rounds: int,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Times:
    """Measure all *operations* in turn, *rounds* times, each round in another order."""
    times: Times = {name: [] for name in operations}
    names = list(operations)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            candidates.settle()
            with context():
                taken = measure(operations[name])
            if number:  # the first round warms up
                times[name].append(taken)
    return times


def ratio(times: Times, ours: str, peer: str) -> float:
    """Return the median over the rounds of ours by theirs."""
    return statistics.median(mine / theirs for mine, theirs in zip(times[ours], times[peer], strict=True))
