"""A provider of the SDK under the emitters, without the rest of the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer

from agentlightning.tracer import provider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer


class Recorded:
    """What the emitters wrote."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer: Tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    @property
    def only(self) -> ReadableSpan:
        (span,) = self.spans
        return span

    def attribute(self, key: str) -> object:
        return (self.only.attributes or {})[key]


def use_tracer(monkeypatch: pytest.MonkeyPatch, tracer: Tracer) -> None:
    """Let the emitters take the SDK's ordinary way through *tracer*; the fast way has its own tests."""

    def emit(*_: object) -> None:
        return None

    def get_tracer(_: str) -> Tracer:
        return tracer

    monkeypatch.setattr(provider, "emit", emit)
    monkeypatch.setattr(provider, "get_tracer", get_tracer)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """Give the emitters a tracer whose finished spans can be looked at."""
    recorded = Recorded()
    use_tracer(monkeypatch, recorded.tracer)
    yield recorded
    recorded.provider.shutdown()


@pytest.fixture
def no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the emitters a tracer that records nothing."""
    use_tracer(monkeypatch, NoOpTracer())
