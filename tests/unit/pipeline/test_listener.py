"""Readers of the stream inside the process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan

from agentlightning import flush
from agentlightning._internal.guard import failures
from agentlightning.pipeline.listener import add_span_listener, remove_span_listener
from agentlightning.pipeline.prepare import Preparer
from agentlightning.tracer.provider import get_tracer

if TYPE_CHECKING:
    import pytest

    from agentlightning.types.record import SpanRecord


class Seen:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: list[object] = []
        self.threads: set[str] = set()

    def __call__(self, span: SpanRecord, /) -> None:
        if span.end_ns is not None:
            self.names.append(span.name)
            self.values.append(span.attributes.get("header"))
        self.threads.add(threading.current_thread().name)


def write(name: str, **attributes: str) -> None:
    """Write a span and wait until it is stored."""
    get_tracer("test").start_span(name, attributes=attributes).end()
    assert flush(10)


def test_listener_sees_spans_until_it_is_removed() -> None:
    """A listener sees each span once, in order, from the worker's thread, and none after it was removed."""
    assert flush(10)  # what other tests left
    seen = Seen()
    add_span_listener(seen)
    add_span_listener(seen)
    try:
        write("one")
        write("two")
    finally:
        remove_span_listener(seen)
    write("three")
    assert seen.names == ["one", "two"]
    assert seen.threads == {"agentlightning-worker"}


def test_listener_sees_no_credentials() -> None:
    """What a listener sees is redacted already."""
    seen = Seen()
    add_span_listener(seen)
    try:
        write("call", header="Authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789")
    finally:
        remove_span_listener(seen)
    assert "abcdefghijkl" not in str(seen.values)


def test_failing_listener_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that raises is counted; the others and the store go on."""
    monkeypatch.setattr(failures, "loud", False)
    before = failures.counts().get("listener", 0)

    def broken(span: SpanRecord, /) -> None:
        raise ValueError(span.name)

    assert flush(10)  # what other tests left
    seen = Seen()
    add_span_listener(broken)
    add_span_listener(seen)
    try:
        write("one")
    finally:
        remove_span_listener(broken)
        remove_span_listener(seen)
    assert seen.names == ["one"]
    assert failures.counts()["listener"] == before + 1


def test_note_of_an_open_span_stays_open() -> None:
    """A span that ends while its note is being made is noted as open; its end comes later, in its place."""
    span = get_tracer("test").start_span("work")
    span.end()
    assert isinstance(span, ReadableSpan)
    assert Preparer().convert(span, 0).end_ns is None
    assert Preparer().convert(span, 7).end_ns == span.end_time
