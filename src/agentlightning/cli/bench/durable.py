"""Measuring the whole way: spans made by one thread until they are durable, and how long a flush takes.

The peer is the SDK's own batch processor with an exporter that does as little as is durable: a line of JSON a span, one
write and one fsync a batch, no redaction, no index.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from agentlightning.cli.bench.ingest import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from opentelemetry.trace import Tracer

    from agentlightning.cli.bench.measure import Times

_FLUSH_S = 60.0
_FLUSHES = 10
"""Single spans in one measurement of the flush."""


class FileExporter(SpanExporter):
    """Appends a line of JSON for each span; on the disk when ``export`` returns."""

    def __init__(self, path: Path) -> None:
        """Append to *path*."""
        self._file = path.open("ab", buffering=0)
        self.exported = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch."""
        self._file.write(b"".join(_line(span) for span in spans))
        os.fsync(self._file.fileno())
        self.exported += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()


def _line(span: ReadableSpan) -> bytes:
    context = span.get_span_context()
    body = {
        "trace_id": context.trace_id if context else 0,
        "span_id": context.span_id if context else 0,
        "name": span.name,
        "start": span.start_time,
        "end": span.end_time,
        "attributes": dict(span.attributes or {}),
    }
    return json.dumps(body).encode() + b"\n"


class Way(NamedTuple):
    """One of the two ways that are compared."""

    tracer: Tracer
    flush: Callable[[], object]
    kept: Callable[[], int]
    """How many spans are durable so far."""


def ways(folder: Path) -> dict[str, Way]:
    """Return our way, to the default store, and the peer's, to a file in *folder*."""
    from agentlightning.pipeline.process import account, flush  # noqa: PLC0415 - AGL_STORE is set
    from agentlightning.tracer.provider import get_tracer  # noqa: PLC0415 - see above

    exporter = FileExporter(folder / "peer.jsonl")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return {
        "own": Way(get_tracer("bench"), lambda: flush(_FLUSH_S), lambda: account().stored),
        "batch": Way(provider.get_tracer("bench"), provider.force_flush, lambda: exporter.exported),
    }


def burst(pair: dict[str, Way], spans: int, rounds: int) -> tuple[Times, Times]:
    """Return for each way the durable spans a second, and the share of *spans* that was kept, of each round."""
    rates: Times = {name: [] for name in pair}
    kept: Times = {name: [] for name in pair}
    for number in range(rounds + 1):
        for name in sorted(pair, reverse=number % 2 == 1):
            way = pair[name]
            way.flush()
            before, count = way.kept(), spans if number else spans // 10  # the first round warms up
            began = time.perf_counter()
            for _ in range(count):
                way.tracer.start_span("ChatCompletion", attributes=ATTRIBUTES).end()
            way.flush()
            taken = time.perf_counter() - began
            if number:
                rates[name].append((way.kept() - before) / taken)
                kept[name].append((way.kept() - before) / count)
    return rates, kept


def flush_ms(pair: dict[str, Way], rounds: int) -> Times:
    """Return for each way how long a flush takes after one span ended, in milliseconds, the middle of some a round."""
    times: Times = {name: [] for name in pair}
    for number in range(rounds):
        for name in sorted(pair, reverse=number % 2 == 1):
            found: list[float] = []
            for _ in range(_FLUSHES):
                pair[name].tracer.start_span("ChatCompletion", attributes=ATTRIBUTES).end()
                began = time.perf_counter()
                pair[name].flush()
                found.append((time.perf_counter() - began) * 1e3)
            times[name].append(sorted(found)[_FLUSHES // 2])
    return times
