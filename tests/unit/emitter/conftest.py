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


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """Give the emitters a tracer whose finished spans can be looked at."""
    recorded = Recorded()
    monkeypatch.setattr(provider, "emit", lambda *_: None)  # the SDK's ordinary way; the fast one has its own tests
    monkeypatch.setattr(provider, "get_tracer", lambda _: recorded.tracer)
    yield recorded
    recorded.provider.shutdown()


@pytest.fixture
def no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the emitters a tracer that records nothing."""
    monkeypatch.setattr(provider, "emit", lambda *_: None)
    monkeypatch.setattr(provider, "get_tracer", lambda _: NoOpTracer())
