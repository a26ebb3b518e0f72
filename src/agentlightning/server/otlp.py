"""Spans of OTLP messages as records of a store.

A span belongs to the rollout that its attributes name, else its resource, else the newest attempt that has spans of
its trace, else an implicit rollout of that trace.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, cast

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from agentlightning import semconv
from agentlightning._internal.ids import implicit_ids
from agentlightning.types.record import EventRecord, LinkRecord, ResourceRecord, SpanRecord
from agentlightning.view.integrity import problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    from agentlightning.store.base import LightningStore
    from agentlightning.types.record import AttributeMap

_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8
_PARENT_ID_BYTES = frozenset({0, _SPAN_ID_BYTES})
_NO_TRACE, _NO_SPAN = bytes(_TRACE_ID_BYTES), bytes(_SPAN_ID_BYTES)
_KINDS = {
    number: name.removeprefix("SPAN_KIND_").replace("UNSPECIFIED", "INTERNAL")
    for name, number in SpanMessage.SpanKind.items()
}
_CODES: dict[int, str] = {Status.STATUS_CODE_OK: "OK", Status.STATUS_CODE_ERROR: "ERROR"}
_MAX_DEPTH = 64
_MAX_NS = 2**63 - 1
"""Times beyond it do not fit into a store; 2262."""
_ID_FIELDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})


class OtlpError(ValueError):
    """A message that is no OTLP."""


def request_from_json(body: bytes) -> ExportTraceServiceRequest:
    """Read the JSON form of OTLP, in which ids are hexadecimal.

    Raises:
        OtlpError: It is not that.
    """
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        msg = f"no JSON: {error}"
        raise OtlpError(msg) from None
    try:
        return json_format.ParseDict(
            _with_base64_ids(value, 0), ExportTraceServiceRequest(), ignore_unknown_fields=True
        )
    except (json_format.ParseError, TypeError, ValueError, RecursionError) as error:
        raise OtlpError(str(error)) from None


def _with_base64_ids(value: object, depth: int) -> Any:  # noqa: ANN401 - any JSON value
    """Return *value* with its ids as protobuf's own JSON writes bytes."""
    if depth > 4 * _MAX_DEPTH:
        msg = "nested too deeply"
        raise OtlpError(msg)
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {
            key: _base64_of(item) if key in _ID_FIELDS and isinstance(item, str) else _with_base64_ids(item, depth + 1)
            for key, item in items
        }
    if isinstance(value, list):
        return [_with_base64_ids(item, depth + 1) for item in cast("list[object]", value)]
    return value


def _base64_of(text: str) -> str:
    try:
        return base64.b64encode(binascii.unhexlify(text)).decode()
    except (binascii.Error, ValueError):
        msg = "an id is not hexadecimal"
        raise OtlpError(msg) from None


def records_of(message: ExportTraceServiceRequest) -> tuple[list[SpanRecord], list[str]]:
    """Return the spans of *message* that can be stored, still without owners, and the reason for each that cannot."""
    records: list[SpanRecord] = []
    reasons: list[str] = []
    for of_resource in message.resource_spans:
        resource = ResourceRecord(_attributes(of_resource.resource.attributes), of_resource.schema_url)
        for of_scope in of_resource.scope_spans:
            scope = of_scope.scope.name, of_scope.scope.version
            for span in of_scope.spans:
                reason = _problem(span)
                if reason:
                    reasons.append(reason)
                    continue
                record = _record(span, scope, resource, len(records) + 1)
                reason = problem(record)
                if reason:
                    reasons.append(reason)
                    continue
                records.append(record)
    return records, reasons


async def give_owners(records: Iterable[SpanRecord], store: LightningStore) -> None:
    """Give each record its rollout and attempt."""
    owners = _Owners(store)
    for record in records:
        owner = owners.known(record) or await owners.ask(record.trace_id)
        record.rollout_id, record.attempt_id = owner


class _Owners:
    """Finds rollout and attempt of spans; asks the store once for each trace."""

    def __init__(self, store: LightningStore) -> None:
        self._store = store
        self._known: dict[str, tuple[str, str]] = {}

    def known(self, record: SpanRecord) -> tuple[str, str] | None:
        """Return rollout and attempt id of *record*, whose own stamps are taken out of it; None: ask the store."""
        stamps = record.attributes.pop(semconv.ROLLOUT_ID, None), record.attributes.pop(semconv.ATTEMPT_ID, None)
        of_resource = record.resource.attributes
        inherited = of_resource.get(semconv.ROLLOUT_ID), of_resource.get(semconv.ATTEMPT_ID)
        for rollout_id, attempt_id in (stamps, inherited):
            if isinstance(rollout_id, str) and rollout_id and isinstance(attempt_id, str) and attempt_id:
                return rollout_id, attempt_id
        return self._known.get(record.trace_id)

    async def ask(self, trace_id: str) -> tuple[str, str]:
        """Return rollout and attempt id of a trace that names neither, and remember them."""
        found = await self._store.find_attempt_of_trace(trace_id) or implicit_ids(trace_id)
        self._known[trace_id] = found
        return found


def _problem(span: SpanMessage) -> str | None:
    trace_id, span_id = span.trace_id, span.span_id
    if len(trace_id) != _TRACE_ID_BYTES or trace_id == _NO_TRACE:
        return "a trace id is not 16 bytes"
    if len(span_id) != _SPAN_ID_BYTES or span_id == _NO_SPAN:
        return "a span id is not 8 bytes"
    if len(span.parent_span_id) not in _PARENT_ID_BYTES:
        return "a parent span id is not 8 bytes"
    if max(span.start_time_unix_nano, span.end_time_unix_nano) > _MAX_NS:
        return "a time is beyond the year 2262"
    return None


def _record(span: SpanMessage, scope: tuple[str, str], resource: ResourceRecord, counter: int) -> SpanRecord:
    parent = span.parent_span_id
    status = span.status
    start_ns = span.start_time_unix_nano
    return SpanRecord(
        rollout_id="",
        attempt_id="",
        counter=counter,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=parent.hex() if parent and parent != _NO_SPAN else None,
        name=span.name,
        kind=_KINDS.get(span.kind, "INTERNAL"),
        start_ns=start_ns,
        # A span that was exported has ended; without a time of its end it took none.
        end_ns=span.end_time_unix_nano or start_ns,
        status_code=_CODES.get(status.code, "UNSET"),
        status_description=status.message or None,
        attributes=_attributes(span.attributes),
        events=[EventRecord(e.name, min(e.time_unix_nano, _MAX_NS), _attributes(e.attributes)) for e in span.events],
        links=[
            LinkRecord(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes), link.trace_state)
            for link in span.links
        ],
        resource=resource,
        scope_name=scope[0],
        scope_version=scope[1],
        trace_state=span.trace_state,
    )


def _attributes(pairs: Iterable[KeyValue]) -> AttributeMap:
    attributes: AttributeMap = {}
    for pair in pairs:
        value = pair.value
        which = value.WhichOneof("value")
        # Texts are most of them: without a call each.
        attributes[pair.key] = value.string_value if which == "string_value" else _value(value, which, 0)
    return attributes


def _nested(value: AnyValue, depth: int) -> object:
    return _value(value, value.WhichOneof("value"), depth)


def _value(value: AnyValue, which: str | None, depth: int) -> object:
    if which is None:
        return None
    if depth > _MAX_DEPTH:
        return "nested too deeply"
    if which == "array_value":
        return [_nested(item, depth + 1) for item in value.array_value.values]
    if which == "kvlist_value":
        return {pair.key: _nested(pair.value, depth + 1) for pair in value.kvlist_value.values}
    if which == "bytes_value":
        return _bytes_text(value.bytes_value)
    return getattr(value, which)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode()
