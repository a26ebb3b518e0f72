"""The public model of a span, as readers get it from a store.

Outside, times are seconds since the epoch as float, as in the 0.2 line. A float of today's epoch is exact to about
240 ns only, so the models also carry the nanoseconds (``start_time_ns``, ``end_time_ns``, ``timestamp_ns``): a span
that is read, dumped, validated and written again is the same span. Where seconds and nanoseconds disagree, the
seconds were set later and hold.

Values are kept as they came: NaN, infinities and lone surrogates survive ``model_dump`` and ``model_validate``.
JSON that can hold them is the store's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Union, cast

from pydantic import BaseModel, ConfigDict
from pydantic_core import core_schema

from agentlightning._internal.clock import now_ns, to_ns, to_seconds
from agentlightning._internal.ids import new_span_id, new_trace_id
from agentlightning.semconv import SpanAttributeNames, SpanNames
from agentlightning.types.convert import plain_attributes, plain_value, record_from_readable, resource_record
from agentlightning.types.record import EventRecord, LinkRecord, ResourceRecord, SpanRecord

if TYPE_CHECKING:
    from opentelemetry import trace as trace_api
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event as OtelEvent
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace.status import Status as OtelStatus
    from pydantic import GetCoreSchemaHandler

__all__ = [
    "AttributeValue",
    "Attributes",
    "Event",
    "Link",
    "OtelResource",
    "Span",
    "SpanAttributeNames",
    "SpanContext",
    "SpanLike",
    "SpanNames",
    "TraceState",
    "TraceStatus",
    "convert_timestamp",
    "extract_extra_fields",
]

AttributeValue = Union[str, bool, int, float, Sequence[str], Sequence[bool], Sequence[int], Sequence[float]]  # noqa: UP007 - as the API sheet writes it; users read it with get_args
"""Value of an attribute. What newer OpenTelemetry lines allow beyond it (None, nested lists and dicts) is kept too."""

Attributes = dict[str, AttributeValue]
"""Attributes by name."""

TraceState = dict[str, str]
"""W3C ``tracestate`` by vendor key."""


class _AnyText:
    """Text with lone surrogates passes: pydantic's own ``str`` refuses what a reader of JSON may well produce."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.json_or_python_schema(core_schema.str_schema(), core_schema.is_instance_schema(str))


class _AnyAttributes:
    """Values pass as they are: the union of sequences would walk 32,000 token ids once for each of its members."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.json_or_python_schema(
            core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()),
            core_schema.dict_schema(core_schema.is_instance_schema(str), core_schema.any_schema()),
        )


_Text = Annotated[str, _AnyText]
_Attributes = Annotated[Attributes, _AnyAttributes]


def convert_timestamp(timestamp: int | None) -> float | None:
    """Turn nanoseconds since the epoch into seconds; None stays None."""
    return to_seconds(timestamp)


def extract_extra_fields(src: object, excluded_fields: list[str]) -> dict[str, object]:
    """Return what *src* carries beside *excluded_fields*, as plain values; what is none becomes its text.

    A field counts with and without its leading underscore; what the class of *src* defines itself (methods and
    properties), and what still begins with an underscore, is left out.
    """
    excluded = {*excluded_fields, *dir(cast("object", type(src)))}
    fields: dict[str, object] = getattr(src, "__dict__", {})
    named = ((key.removeprefix("_"), value) for key, value in fields.items())
    return {key: plain_value(value) for key, value in named if key not in excluded and not key.startswith("_")}


class SpanContext(BaseModel):
    """Identity of a span, as it travels between processes."""

    model_config = ConfigDict(extra="allow")

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    is_remote: bool
    """True where the span belongs to another process."""
    trace_state: TraceState

    @classmethod
    def from_opentelemetry(cls, src: trace_api.SpanContext) -> SpanContext:
        """Make it from the context of an OpenTelemetry span."""
        return cls(
            trace_id=f"{src.trace_id:032x}",
            span_id=f"{src.span_id:016x}",
            is_remote=src.is_remote,
            trace_state=dict(src.trace_state) if src.trace_state else {},
        )


class TraceStatus(BaseModel):
    """How a span ended."""

    model_config = ConfigDict(extra="allow")

    status_code: str
    """``UNSET``, ``OK`` or ``ERROR``."""
    description: _Text | None = None

    @classmethod
    def from_opentelemetry(cls, src: OtelStatus) -> TraceStatus:
        """Make it from a status of OpenTelemetry."""
        return cls(status_code=src.status_code.name, description=src.description)


class Event(BaseModel):
    """Something that happened at one moment of a span."""

    model_config = ConfigDict(extra="allow")

    name: _Text
    attributes: _Attributes
    timestamp: float | None = None
    """Seconds since the epoch."""
    timestamp_ns: int | None = None
    """The same, exact."""

    @classmethod
    def from_opentelemetry(cls, src: OtelEvent) -> Event:
        """Make it from an event of the OpenTelemetry SDK."""
        return cls(
            name=src.name,
            attributes=plain_attributes(src.attributes),
            timestamp=to_seconds(src.timestamp),
            timestamp_ns=src.timestamp,
        )


class Link(BaseModel):
    """A pointer to a span of this or another trace."""

    model_config = ConfigDict(extra="allow")

    context: SpanContext
    attributes: _Attributes | None = None

    @classmethod
    def from_opentelemetry(cls, src: trace_api.Link) -> Link:
        """Make it from a link of OpenTelemetry."""
        context = SpanContext.from_opentelemetry(src.context)
        return cls(context=context, attributes=plain_attributes(src.attributes) or None)


class OtelResource(BaseModel):
    """What made a span: service, process, SDK."""

    attributes: _Attributes
    schema_url: str

    @classmethod
    def from_opentelemetry(cls, src: Resource) -> OtelResource:
        """Make it from a resource of the OpenTelemetry SDK."""
        return cls(attributes=plain_attributes(src.attributes), schema_url=src.schema_url)


class Span(BaseModel):
    """One span of a rollout. Further fields are allowed and kept by the model, but not by a store."""

    model_config = ConfigDict(extra="allow")

    rollout_id: str
    attempt_id: str
    sequence_id: int
    """Place in the rollout, from 1; 0 for a span that no store has numbered or that is still open."""
    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    parent_id: str | None
    """16 hexadecimal digits; None for the root of a trace."""
    name: _Text
    status: TraceStatus
    attributes: _Attributes
    events: list[Event]
    links: list[Link]
    start_time: float | None
    """Seconds since the epoch."""
    end_time: float | None
    """Seconds since the epoch; None for a span that is still open."""
    context: SpanContext | None
    parent: SpanContext | None
    resource: OtelResource
    kind: str = "INTERNAL"
    """Name of the OpenTelemetry span kind."""
    start_time_ns: int | None = None
    """``start_time`` in nanoseconds, exact."""
    end_time_ns: int | None = None
    """``end_time`` in nanoseconds, exact."""
    scope_name: str = ""
    """Library that made the span."""
    scope_version: str = ""
    process: str = ""
    """``host/pid/start`` of the process that made the span, empty where that is not known."""
    counter: int = 0
    """Place in the order of hand-over within that process, from 1; 0 where that is not known."""

    @classmethod
    def from_opentelemetry(cls, src: ReadableSpan, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Make it from a span of the OpenTelemetry SDK, ended or still open.

        The ids given here hold, whatever rollout the span was made in.
        """
        record = record_from_readable(
            src,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            counter=0,
            process="",
            resource=resource_record(src.resource),
        )
        record.rollout_id, record.attempt_id = rollout_id, attempt_id
        span = cls.from_record(record, sequence_id)
        # A record does not know whether a parent or a linked span is remote; here it can still be seen.
        span.parent = SpanContext.from_opentelemetry(src.parent) if src.parent is not None else None
        span.links = [Link.from_opentelemetry(link) for link in src.links]
        return span

    @classmethod
    def from_attributes(  # noqa: PLR0913 - signature of the API sheet
        cls,
        *,
        attributes: Attributes,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
        name: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        parent_id: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        resource: OtelResource | None = None,
    ) -> Span:
        """Make an ended span from *attributes*; what is not given is made up.

        Ids of trace and span are fresh and valid, rollout and attempt are empty (a store fills them in), the sequence
        id is 0, the name ``agentlightning.virtual``, and the times are now (a missing end is the start, where that
        lies in the future).
        """
        start_ns, end_ns = _to_ns(start_time), _to_ns(end_time)
        now = now_ns()
        end_ns = max(now, start_ns or 0) if end_ns is None else end_ns
        record = SpanRecord(
            rollout_id=rollout_id or "",
            attempt_id=attempt_id or "",
            counter=0,
            trace_id=trace_id or f"{new_trace_id():032x}",
            span_id=span_id or f"{new_span_id():016x}",
            parent_id=parent_id,
            name=name or SpanNames.VIRTUAL.value,
            start_ns=min(now, end_ns) if start_ns is None else start_ns,
            end_ns=end_ns,
            status_code="OK",
            attributes=attributes,
            resource=_NO_RESOURCE,
        )
        span = cls.from_record(record, sequence_id or 0)
        if resource is not None:
            span.resource = resource
        # The caller's own numbers, not what is left of them after a way through nanoseconds.
        span.start_time = span.start_time if start_time is None else start_time
        span.end_time = span.end_time if end_time is None else end_time
        return span

    @classmethod
    def from_record(cls, record: SpanRecord, sequence_id: int) -> Span:
        """Make it from a record of a store."""
        trace_id, parent_id = record.trace_id, record.parent_id
        return cls(
            rollout_id=record.rollout_id,
            attempt_id=record.attempt_id,
            sequence_id=sequence_id,
            trace_id=trace_id,
            span_id=record.span_id,
            parent_id=parent_id,
            name=record.name,
            status=TraceStatus(status_code=record.status_code, description=record.status_description),
            attributes=record.attributes,
            events=[_event(event) for event in record.events],
            links=[_link(link) for link in record.links],
            start_time=to_seconds(record.start_ns),
            end_time=to_seconds(record.end_ns),
            context=_context(trace_id, record.span_id, record.trace_state),
            parent=_context(trace_id, parent_id) if parent_id else None,
            resource=OtelResource(attributes=record.resource.attributes, schema_url=record.resource.schema_url),
            kind=record.kind,
            start_time_ns=record.start_ns,
            end_time_ns=record.end_ns,
            scope_name=record.scope_name,
            scope_version=record.scope_version,
            process=record.process,
            counter=record.counter,
        )

    def to_record(self) -> SpanRecord:
        """Return the record that a store writes; ``Span.from_record`` gives an equal span back.

        A span without a start begins when it ends, or now. The record shares no mutable value with the span.
        """
        end_ns = _exact_ns(self.end_time, self.end_time_ns)
        start_ns = _exact_ns(self.start_time, self.start_time_ns)
        if start_ns is None:
            start_ns = now_ns() if end_ns is None else end_ns
        return SpanRecord(
            rollout_id=self.rollout_id,
            attempt_id=self.attempt_id,
            counter=self.counter,
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_id=self.parent_id,
            name=self.name,
            kind=self.kind,
            start_ns=start_ns,
            end_ns=end_ns,
            status_code=self.status.status_code,
            status_description=self.status.description,
            attributes=plain_attributes(self.attributes),
            events=[_event_record(event, start_ns) for event in self.events],
            links=[_link_record(link) for link in self.links],
            resource=ResourceRecord(plain_attributes(self.resource.attributes), self.resource.schema_url),
            scope_name=self.scope_name,
            scope_version=self.scope_version,
            trace_state=_to_header(self.context.trace_state) if self.context else "",
            process=self.process,
        )


SpanLike = Union["ReadableSpan", Span]
"""A span of the OpenTelemetry SDK or of a store; a name, so that nobody pays for an SDK that is not used."""

_NO_RESOURCE = ResourceRecord(attributes={})


def _to_ns(seconds: float | None) -> int | None:
    """Turn seconds into nanoseconds; what is no moment (None, NaN, infinite) is None."""
    return to_ns(seconds) if seconds is not None and math.isfinite(seconds) else None


def _exact_ns(seconds: float | None, ns: int | None) -> int | None:
    """Return *ns* where it says the same as *seconds*, else *seconds* in nanoseconds."""
    if ns is not None and seconds is not None and abs(ns / 1e9 - seconds) < _SAME_MOMENT_S:
        return ns
    return _to_ns(seconds)


_SAME_MOMENT_S = 1e-6
"""Times nearer than this are one moment that lost digits on its way through a float."""


def _context(trace_id: str, span_id: str, trace_state: str = "") -> SpanContext:
    state = _from_header(trace_state) if trace_state else {}
    return SpanContext(trace_id=trace_id, span_id=span_id, is_remote=False, trace_state=state)


def _from_header(header: str) -> TraceState:
    pairs = (part.partition("=") for part in header.split(","))
    return {key: value for key, _, value in pairs}


def _to_header(state: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in state.items())


def _event(record: EventRecord) -> Event:
    return Event(
        name=record.name,
        attributes=record.attributes,
        timestamp=to_seconds(record.time_ns),
        timestamp_ns=record.time_ns,
    )


def _event_record(event: Event, default_ns: int) -> EventRecord:
    time_ns = _exact_ns(event.timestamp, event.timestamp_ns)
    return EventRecord(event.name, default_ns if time_ns is None else time_ns, plain_attributes(event.attributes))


def _link(record: LinkRecord) -> Link:
    context = _context(record.trace_id, record.span_id, record.trace_state)
    return Link(context=context, attributes=record.attributes or None)


def _link_record(link: Link) -> LinkRecord:
    context = link.context
    return LinkRecord(
        trace_id=context.trace_id,
        span_id=context.span_id,
        attributes=plain_attributes(cast("Mapping[str, object] | None", link.attributes)),
        trace_state=_to_header(context.trace_state),
    )
