"""The one conversion from a span of the OpenTelemetry SDK to the flat record that stores write.

``record_from_readable`` runs in the worker thread for every span. It reads the span through its public properties
only, so it works with every SDK line that the package accepts and with spans that other libraries build themselves.
"""

from __future__ import annotations

import base64
import reprlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from agentlightning import semconv
from agentlightning._internal.clock import now_ns
from agentlightning._internal.failing import ask
from agentlightning._internal.ids import new_span_id, new_trace_id
from agentlightning.types.record import AttributeMap, EventRecord, LinkRecord, ResourceRecord, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Collection

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Link, SpanContext

_PLAIN: frozenset[type] = frozenset({str, bool, int, float, type(None)})
_CONTAINERS: tuple[type, ...] = (list, tuple, dict, set, frozenset)
_MAX_DEPTH = 64
"""A value nested deeper than this is stored as text; OpenTelemetry itself gives no bound."""
_MAX_TEXT_CHARS = 10_000
"""Bound of the text that stands for a value which OpenTelemetry does not allow."""


def record_from_readable(  # noqa: PLR0913 - what a span does not know about itself; all by keyword, built by one caller
    span: ReadableSpan,
    *,
    rollout_id: str,
    attempt_id: str,
    counter: int,
    process: str,
    resource: ResourceRecord,
    parent_id_default: str | None = None,
) -> SpanRecord:
    """Turn *span*, ended or still open, into a record.

    *rollout_id* and *attempt_id* hold where the span does not carry the two stamps of the tracer; the stamps
    themselves are not stored again as attributes. *counter* is the span's place in the order of hand-over, *process*
    the ``process_key`` of this process, *resource* the provider's resource (see ``resource_record``), and
    *parent_id_default* the parent of a span that has none. A span that lacks an id gets a fresh one.

    May be called while the program still changes an open span. Times are taken as they are: the end may lie before
    the start. Never raises for what an attribute holds.
    """
    context = span.get_span_context()
    parent = span.parent
    attributes = plain_attributes(span.attributes)
    stamps = attributes.pop(semconv.ROLLOUT_ID, None), attributes.pop(semconv.ATTEMPT_ID, None)
    if isinstance(stamps[0], str) and isinstance(stamps[1], str):
        rollout_id, attempt_id = stamps
    dropped = span.dropped_attributes
    if dropped:
        attributes[semconv.DROPPED_ATTRIBUTES] = dropped
    events, links = span.events, span.links
    status, scope, start_ns = span.status, span.instrumentation_scope, span.start_time
    return SpanRecord(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        counter=counter,
        trace_id=f"{context.trace_id:032x}" if context else f"{new_trace_id():032x}",
        span_id=f"{context.span_id:016x}" if context else f"{new_span_id():016x}",
        parent_id=parent_id_default if parent is None else f"{parent.span_id:016x}",
        name=exact_text(span.name),
        kind=span.kind.name,
        start_ns=now_ns() if start_ns is None else start_ns,
        end_ns=span.end_time,
        status_code=status.status_code.name,
        status_description=status.description,
        attributes=attributes,
        events=[event_record(event) for event in events] if events else [],
        links=[link_record(link) for link in links] if links else [],
        resource=resource,
        scope_name=(scope.name if scope else "") or "",
        scope_version=(scope.version if scope else "") or "",
        trace_state=trace_state_header(context),
        process=process,
    )


def resource_record(resource: Resource) -> ResourceRecord:
    """Return the record of *resource*; make it once for each provider and share it between its spans."""
    return ResourceRecord(attributes=plain_attributes(resource.attributes), schema_url=resource.schema_url)


def event_record(event: Event) -> EventRecord:
    """Return the record of an event of the OpenTelemetry SDK."""
    return EventRecord(exact_text(event.name), event.timestamp, plain_attributes(event.attributes))


def link_record(link: Link) -> LinkRecord:
    """Return the record of a link of the OpenTelemetry SDK."""
    context = link.context
    return LinkRecord(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        attributes=plain_attributes(link.attributes),
        trace_state=trace_state_header(context),
    )


def trace_state_header(context: SpanContext | None) -> str:
    """Return the W3C ``tracestate`` of *context*, empty when it has none."""
    state = context.trace_state if context is not None else None
    return state.to_header() if state else ""


def plain_attributes(attributes: Mapping[str, object] | None) -> AttributeMap:
    """Return a copy of *attributes* that holds only plain values, as ``plain_value`` makes them."""
    if not attributes:
        return {}
    # The SDK's attributes are a proxy over a mapping whose copy() is one C call on a dict, and so atomic beside a
    # thread that adds attributes; walking the mapping costs a Python call and a lock for every key.
    copied = attributes.copy() if isinstance(attributes, (MappingProxyType, dict)) else dict(attributes)
    plain = cast("AttributeMap", copied)
    for key, value in plain.items():
        if type(value) not in _PLAIN:
            plain[key] = plain_value(value)
    return plain


def plain_value(value: object) -> object:
    """Return *value* as str, bool, int, float, None, or a list or dict of these.

    Subclasses lose their class (an enum of strings is its string). Bytes are text where they are UTF-8, so that
    redaction sees what they say, else ``base64:`` and their base64 form. Anything that OpenTelemetry does not allow
    becomes its ``str``, at most 10,000 characters, and so does a value that is nested deeper than 64 or contains
    itself. Never raises.
    """
    # A sequence or mapping class of the program's may raise anything, and must not cost the span.
    return ask(lambda: _plain(value, 0), lambda _: bounded_text(value))


def _plain(value: object, depth: int) -> object:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple, AbstractSet)):
        return _plain_list(cast("Collection[object]", value), depth)
    if isinstance(value, str):
        return exact_text(value)
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, (bytes, bytearray)):
        return _bytes_text(bytes(value))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {bounded_text(key): _plain(item, _deeper(depth)) for key, item in items}
    return bounded_text(value)


def _plain_list(value: Collection[object], depth: int) -> list[object]:
    # Token ids are lists of tens of thousands of numbers: one pass in C decides for all of them.
    if _PLAIN.issuperset(set(map(type, value))):
        return list(value)
    deeper = _deeper(depth)
    return [_plain(item, deeper) for item in value]


def _deeper(depth: int) -> int:
    if depth >= _MAX_DEPTH:
        msg = "nested too deeply"
        raise ValueError(msg)
    return depth + 1


def exact_text(text: str) -> str:
    """Return *text* as a ``str`` proper: the value of a string enum, not its name."""
    return text if type(text) is str else str.__str__(text)


def bounded_text(value: object) -> str:
    """Return ``str(value)``, at most 10,000 characters, or the name of its class where that fails; never raises."""
    if type(value) is str:
        return value
    return ask(lambda: _text(value)[:_MAX_TEXT_CHARS], lambda _: f"<{type(value).__qualname__}>")


def _text(value: object) -> str:
    # str() of builtin containers has no bound in depth: with a raised recursion limit it overflows the C stack.
    return reprlib.repr(value) if isinstance(value, _CONTAINERS) else exact_text(str(value))


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode()
