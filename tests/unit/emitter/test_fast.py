"""The fast way of the emitters writes what the SDK's ordinary way would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode, use_span

from agentlightning._internal.context import RunningRollout, running
from agentlightning.tracer.processor import CaptureProcessor
from agentlightning.tracer.provider import LightningTracerProvider
from agentlightning.types.convert import record_from_readable
from agentlightning.types.record import ResourceRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan, Span

    from agentlightning.types.record import SpanRecord


RESOURCE = ResourceRecord({})


class Collecting(CaptureProcessor):
    """Keeps what it is handed instead of handing it to the pipeline."""

    def __init__(self) -> None:
        super().__init__({}, stamping=False)
        self.taken: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: object = None) -> None:
        """Note nothing."""

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the span."""
        self.taken.append(span)

    def finish(self, span: ReadableSpan, attempt_id: str | None) -> None:
        """Keep the span."""
        self.taken.append(span)


@pytest.fixture
def capture() -> Collecting:
    """Return a processor that keeps the spans."""
    return Collecting()


@pytest.fixture
def provider(capture: Collecting) -> LightningTracerProvider:
    """Return our provider over that processor."""
    return LightningTracerProvider(capture)


@pytest.fixture
def rollout() -> Iterator[RunningRollout]:
    """Run the test inside a rollout."""
    rollout = RunningRollout("ro-1", "at-1", trace_id=0xABC)
    token = running.set(rollout)
    yield rollout
    running.reset(token)


def to_record(span: ReadableSpan) -> SpanRecord:
    """Return the record of *span* as a store would get it."""
    return record_from_readable(span, rollout_id="", attempt_id="", counter=1, process="p", resource=RESOURCE)


def both_ways(
    provider: LightningTracerProvider, capture: Collecting, status: Status | None = None
) -> tuple[SpanRecord, SpanRecord]:
    """Return the records of one event, emitted the fast way and the ordinary way."""
    provider.emit("agentlightning.message", {"message": "hi"}, status)
    span = provider.get_tracer("agentlightning").start_span("agentlightning.message", attributes={"message": "hi"})
    if status is not None:
        span.set_status(status)
    span.end()
    assert all(span.resource is provider.resource for span in capture.taken)
    fast, ordinary = (to_record(span) for span in capture.taken)
    assert ordinary.end_ns is not None
    assert fast.end_ns == fast.start_ns <= ordinary.start_ns
    assert fast.span_id != ordinary.span_id
    ordinary.span_id = fast.span_id
    ordinary.start_ns = ordinary.end_ns = fast.start_ns
    return fast, ordinary


def test_both_ways_write_the_same_in_a_rollout(
    provider: LightningTracerProvider, capture: Collecting, rollout: RunningRollout
) -> None:
    """Inside a rollout both ways give equal records: stamps, trace, attributes, scope, resource."""
    fast, ordinary = both_ways(provider, capture)
    assert fast == ordinary
    assert (fast.rollout_id, fast.attempt_id, fast.trace_id) == ("ro-1", "at-1", f"{rollout.trace_id:032x}")
    assert fast.parent_id is None


def test_both_ways_hang_under_the_current_span(
    provider: LightningTracerProvider, capture: Collecting, rollout: RunningRollout
) -> None:
    """An emitted span is a child of the span that is current, whichever way it takes."""
    parent = provider.get_tracer("test").start_span("parent")
    with use_span(parent):
        fast, ordinary = both_ways(provider, capture, Status(StatusCode.ERROR, "why"))
    assert fast == ordinary
    assert fast.parent_id == f"{parent.get_span_context().span_id:016x}"
    assert (fast.status_code, fast.status_description) == ("ERROR", "why")


def test_both_ways_outside_a_rollout_have_a_trace_of_their_own(
    provider: LightningTracerProvider, capture: Collecting
) -> None:
    """Without a rollout an emitted span begins a trace, and carries no stamp."""
    fast, ordinary = both_ways(provider, capture)
    assert fast.trace_id != ordinary.trace_id
    ordinary.trace_id = fast.trace_id
    assert fast == ordinary
    assert fast.rollout_id == ""


def test_a_processor_of_the_programs_sees_every_span(provider: LightningTracerProvider) -> None:
    """Once somebody adds a processor the fast way is closed, so that it misses nothing."""
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    assert provider.emit("agentlightning.message", {"message": "hi"}) is None
