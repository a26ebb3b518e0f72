"""The one conversion from an SDK span to a record."""

from __future__ import annotations

import threading
import time
import timeit
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from agentlightning.types.convert import plain_attributes, plain_value, record_from_readable, resource_record
from agentlightning.types.record import ResourceRecord, SpanRecord

RESOURCE = ResourceRecord(attributes={})


def convert(span: Any, **options: Any) -> SpanRecord:
    """Convert *span* as the worker does."""
    given: dict[str, Any] = {"rollout_id": "ro-1", "attempt_id": "at-1", "counter": 7, "process": "h/1/2"}
    return record_from_readable(span, resource=RESOURCE, **{**given, **options})


@pytest.fixture
def provider() -> TracerProvider:
    """A provider of the SDK with limits as ours has them."""
    return TracerProvider(
        resource=Resource.create({"service.name": "s"}),
        span_limits=SpanLimits(max_span_attributes=10_000),
        shutdown_on_exit=False,
    )


def test_an_ended_span_keeps_everything(provider: TracerProvider) -> None:
    """Ids, names, kind, times, status, events, links, scope and trace state reach the record."""
    state = TraceState([("vendor", "1"), ("other", "2")])
    remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
    parent = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    tracer = provider.get_tracer("lib", "1.2")
    span = tracer.start_span(
        "work", parent, SpanKind.CLIENT, {"a": (1, 2)}, [Link(remote, {"l": "x"})], start_time=10**18 + 1
    )
    span.add_event("seen", {"e": (True,)}, timestamp=10**18 + 2)
    span.set_status(Status(StatusCode.ERROR, "bad"))
    span.end(end_time=10**18 + 3)
    context = span.get_span_context()

    record = convert(span)

    assert (record.rollout_id, record.attempt_id, record.counter, record.process) == ("ro-1", "at-1", 7, "h/1/2")
    assert (record.trace_id, record.span_id) == (f"{1:032x}", f"{context.span_id:016x}")
    assert record.parent_id == f"{2:016x}"
    assert (record.name, record.kind) == ("work", "CLIENT")
    assert (record.start_ns, record.end_ns) == (10**18 + 1, 10**18 + 3)
    assert (record.status_code, record.status_description) == ("ERROR", "bad")
    assert record.attributes == {"a": [1, 2]}
    assert [(e.name, e.time_ns, e.attributes) for e in record.events] == [("seen", 10**18 + 2, {"e": [True]})]
    link = record.links[0]
    assert (link.trace_id, link.span_id) == (f"{1:032x}", f"{2:016x}")
    assert (link.attributes, link.trace_state) == ({"l": "x"}, "vendor=1,other=2")
    assert (record.scope_name, record.scope_version) == ("lib", "1.2")
    assert record.trace_state == "vendor=1,other=2"
    assert record.resource is RESOURCE


def test_an_open_span_has_no_end(provider: TracerProvider) -> None:
    """A span that is still running is a record without an end."""
    assert convert(provider.get_tracer("t").start_span("open")).end_ns is None


def test_an_end_before_the_start_is_kept(provider: TracerProvider) -> None:
    """Clocks go backwards; the times are recorded as they are."""
    span = provider.get_tracer("t").start_span("s", start_time=100)
    span.end(end_time=50)
    record = convert(span)
    assert (record.start_ns, record.end_ns) == (100, 50)


def test_a_root_takes_the_given_parent(provider: TracerProvider) -> None:
    """Only a span without a parent of its own hangs under the default."""
    tracer = provider.get_tracer("t")
    root = tracer.start_span("root")
    child = tracer.start_span("child", trace.set_span_in_context(root))
    assert convert(root, parent_id_default="00000000000000aa").parent_id == "00000000000000aa"
    assert convert(root).parent_id is None
    assert convert(child, parent_id_default="x").parent_id == f"{root.get_span_context().span_id:016x}"


def test_stamps_say_where_a_span_belongs(provider: TracerProvider) -> None:
    """The two stamps win over the default, go together, and are not stored as attributes."""
    tracer = provider.get_tracer("t")
    stamps = {"agentlightning.rollout_id": "ro-9", "agentlightning.attempt_id": "at-9"}
    record = convert(tracer.start_span("s", attributes={**stamps, "a": 1}))
    assert (record.rollout_id, record.attempt_id, record.attributes) == ("ro-9", "at-9", {"a": 1})
    half = convert(tracer.start_span("s", attributes={"agentlightning.rollout_id": "ro-9"}))
    assert (half.rollout_id, half.attempt_id) == ("ro-1", "at-1")


def test_dropped_attributes_are_counted() -> None:
    """Attributes that the limit of a provider dropped are counted on the span."""
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=2), shutdown_on_exit=False)
    record = convert(provider.get_tracer("t").start_span("s", attributes={"a": 1, "b": 2, "c": 3}))
    assert record.attributes == {"b": 2, "c": 3, "agentlightning.dropped_attributes": 1}


def test_a_span_that_lacks_everything_is_still_a_record() -> None:
    """A span that a library built by hand, without ids, scope and times, gets fresh valid ids and a start."""
    record = convert(ReadableSpan("bare"))
    assert int(record.trace_id, 16)
    assert int(record.span_id, 16)
    assert (len(record.trace_id), len(record.span_id)) == (32, 16)
    assert record.start_ns > 0
    assert (record.attributes, record.events, record.links, record.scope_name) == ({}, [], [], "")


def test_a_span_that_is_changed_meanwhile_converts(provider: TracerProvider) -> None:
    """An open span may get attributes and events from the program while it is converted."""
    span = provider.get_tracer("t").start_span("s")
    stop = threading.Event()

    def change() -> None:
        for number in range(10**9):
            if stop.is_set():
                return
            span.set_attribute(f"k{number % 5000}", number)
            span.add_event("e")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        records = [convert(span) for _ in range(300)]
    finally:
        stop.set()
        thread.join()
    assert len(records) == 300
    assert len(records[-1].attributes) >= len(records[0].attributes)


def test_a_resource_is_one_record() -> None:
    """A resource keeps its attributes as plain values and its schema."""
    record = resource_record(Resource({"a": ("x", "y")}, schema_url="https://schema"))
    assert (record.attributes, record.schema_url) == ({"a": ["x", "y"]}, "https://schema")


class Tone(str, Enum):
    HIGH = "high"


class _Number(int):
    pass


class _Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


class _Endless(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2, [3])), [1, [2, [3]]]),
        (None, None),
        ({"a": ("b", None)}, {"a": ["b", None]}),
        (MappingProxyType({1: (2,)}), {"1": [2]}),
        (b"text", "text"),
        (b"\xff", "base64:/w=="),
        (Tone.HIGH, "high"),
        ([Tone.HIGH], ["high"]),
        (_Number(3), 3),
        (frozenset({1}), [1]),
        (_Unspeakable(), "<_Unspeakable>"),
        (1j, "1j"),
        (range(3), "range(0, 3)"),
    ],
)
def test_values_become_plain(value: object, plain: object) -> None:
    """What OpenTelemetry allows, and what it does not, becomes text, numbers, lists and dicts."""
    result = plain_value(value)
    assert result == plain
    assert type(result) is type(plain)


def test_nesting_without_end_becomes_text() -> None:
    """A value that contains itself, or is nested without end, is bounded text."""
    cycle: list[object] = []
    cycle += [cycle, cycle]
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    for value in (cycle, deep, {"a": deep}, _Endless(a=1)):
        assert len(str(plain_value(value))) <= 10_000


def test_the_given_attributes_are_not_changed() -> None:
    """The result is a copy, down to its lists."""
    given = {"a": [1, 2], "b": (3,)}
    plain = plain_attributes(given)
    plain["a"].append(3)
    assert given == {"a": [1, 2], "b": (3,)}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=3))
def test_a_second_conversion_changes_nothing(attributes: dict[str, Any]) -> None:
    """Whatever the SDK takes becomes plain at once."""
    once = plain_attributes(attributes)
    assert plain_attributes(once) == once


def test_conversion_is_cheap(provider: TracerProvider) -> None:
    """A span with twenty attributes converts in well under 150 us, ten times the bar of a quiet machine."""
    attributes = {f"gen_ai.request.k{number}": "v" * 40 if number % 2 else number for number in range(20)}
    span = provider.get_tracer("t").start_span("s", attributes=attributes)
    span.end()
    seconds = min(timeit.repeat(lambda: convert(span), number=200, repeat=5, timer=time.thread_time)) / 200
    print(f"\none span with 20 attributes: {seconds * 1e6:.1f} us")
    assert seconds < 150e-6
