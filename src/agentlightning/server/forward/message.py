"""Records of a store as OTLP messages: the way back of ``server.otlp``.

A span carries rollout and attempt as attributes, so that another store of ours puts it where it belongs, and keeps its
ids, so that a backend which gets it twice keeps it once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from agentlightning import semconv
from agentlightning.store.pack import plain, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

    from agentlightning.types.record import SpanRecord

_MAX_DEPTH = 60
_INT64 = 2**63
_KINDS = {name.removeprefix("SPAN_KIND_"): number for name, number in SpanMessage.SpanKind.items()}
_CODES = {"OK": Status.STATUS_CODE_OK, "ERROR": Status.STATUS_CODE_ERROR}


def message_of(records: Iterable[SpanRecord]) -> ExportTraceServiceRequest:
    """Return the request that carries *records*, in their order within each resource and scope.

    Raises:
        ValueError: A trace or span id is not hexadecimal.
    """
    request = ExportTraceServiceRequest()
    resources: dict[tuple[str, str], ResourceSpans] = {}
    scopes: dict[tuple[str, str, str, str], ScopeSpans] = {}
    for record in records:
        home = record.resource.schema_url, to_json(record.resource.attributes)
        of_resource = resources.get(home)
        if of_resource is None:
            of_resource = resources[home] = request.resource_spans.add(schema_url=record.resource.schema_url)
            of_resource.resource.attributes.extend(_pairs(record.resource.attributes))
        key = (*home, record.scope_name, record.scope_version)
        of_scope = scopes.get(key)
        if of_scope is None:
            of_scope = scopes[key] = of_resource.scope_spans.add()
            of_scope.scope.name, of_scope.scope.version = _text(record.scope_name), _text(record.scope_version)
        of_scope.spans.append(_span(record))
    return request


def _span(record: SpanRecord) -> SpanMessage:
    message = SpanMessage(
        trace_id=bytes.fromhex(record.trace_id),
        span_id=bytes.fromhex(record.span_id),
        parent_span_id=bytes.fromhex(record.parent_id or ""),
        name=_text(record.name),
        kind=cast("SpanMessage.SpanKind.ValueType", _KINDS.get(record.kind, 1)),
        start_time_unix_nano=max(0, record.start_ns),
        end_time_unix_nano=max(0, record.end_ns or record.start_ns),
        trace_state=_text(record.trace_state),
        attributes=_pairs(record.attributes),
        events=[
            SpanMessage.Event(
                name=_text(event.name), time_unix_nano=max(0, event.time_ns), attributes=_pairs(event.attributes)
            )
            for event in record.events
        ],
        links=[
            SpanMessage.Link(
                trace_id=bytes.fromhex(link.trace_id),
                span_id=bytes.fromhex(link.span_id),
                trace_state=_text(link.trace_state),
                attributes=_pairs(link.attributes),
            )
            for link in record.links
        ],
        status=Status(
            code=_CODES.get(record.status_code, Status.STATUS_CODE_UNSET),
            message=_text(record.status_description or ""),
        ),
    )
    message.attributes.extend(_pairs({semconv.ROLLOUT_ID: record.rollout_id, semconv.ATTEMPT_ID: record.attempt_id}))
    return message


def _pairs(attributes: Mapping[str, object]) -> list[KeyValue]:
    return [KeyValue(key=_text(key), value=_value(value, 0)) for key, value in attributes.items()]


def _value(value: object, depth: int) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=_text(value))
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        inside = -_INT64 <= value < _INT64
        return AnyValue(int_value=value) if inside else AnyValue(string_value=str(value))
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if value is None:
        return AnyValue()
    if depth < _MAX_DEPTH:  # deeper messages are refused by what reads protobuf
        if isinstance(value, (list, tuple)):
            items = [_value(item, depth + 1) for item in cast("list[object]", value)]
            return AnyValue(array_value=ArrayValue(values=items))
        if isinstance(value, dict):
            named = cast("dict[object, object]", value).items()
            pairs = [KeyValue(key=_text(str(key)), value=_value(item, depth + 1)) for key, item in named]
            return AnyValue(kvlist_value=KeyValueList(values=pairs))
    return AnyValue(string_value=_text(to_json(value)))


def _text(text: str) -> str:
    """Return *text* as protobuf takes it: without the lone surrogates that some programs make."""
    return text if text.isascii() else str(plain(text))
