"""Fixtures: a provider that keeps its spans in memory, and what is read from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

if TYPE_CHECKING:
    from collections.abc import Iterator


class Spans:
    """The spans of a test, those that ended."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        """Return them in the order in which they started."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def clear(self) -> None:
        """Forget them."""
        self._exporter.clear()

    def one(self) -> ReadableSpan:
        """Return the only one."""
        spans = self.all()
        assert len(spans) == 1, [span.name for span in spans]
        return spans[0]

    def tree(self) -> list[str]:
        """Return the names, each with two blanks for every span above it."""
        parents = {span.context.span_id: span.parent for span in self.all() if span.context is not None}
        lines: list[str] = []
        for span in self.all():
            depth, parent = 0, span.parent
            while parent is not None and parent.span_id in parents:
                depth, parent = depth + 1, parents[parent.span_id]
            lines.append("  " * depth + span.name)
        return lines


@pytest.fixture
def spans() -> Iterator[Spans]:
    """An empty provider."""
    kept = Spans()
    yield kept
    kept.provider.shutdown()
