"""What an agent returned, turned into spans of its rollout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.sdk.trace import ReadableSpan

from agentlightning import semconv
from agentlightning._internal.failing import ask
from agentlightning.emitter import emit_reward
from agentlightning.emitter.object import object_attributes
from agentlightning.emitter.utils import emit_span, is_enabled
from agentlightning.pipeline.process import get_pipeline
from agentlightning.pipeline.redaction import Redactor
from agentlightning.semconv import SpanNames
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.types.protocol import SpanWriter
    from agentlightning.types.tracer import Span


class MixedResultError(ValueError):
    """An agent returned a list that holds spans and other things."""


def record_result(
    value: object, *, agent: str, rollout_id: str, attempt_id: str, writer: SpanWriter | None
) -> list[ReadableSpan]:
    """Record what *agent* returned as spans of the attempt; call it inside the attempt's ``trace_context``.

    None is nothing; a number (int, bool, numpy scalar) is the final reward; a list of spans is stored as it is, a
    span without ids of its own under this attempt; anything else becomes an ``agentlightning.object`` span with
    ``agentlightning.output`` = true. Blocking where *writer* has to write.

    Returns:
        The ``ReadableSpan`` objects of the list, if there was one.

    Raises:
        MixedResultError: A list holds spans and something else.
        StoreError: Spans could not be written.
    """
    if value is None or not is_enabled():
        return []
    spans = spans_of(value, agent)
    if spans:
        return _record_spans(spans, rollout_id, attempt_id, writer)
    if is_number(value):
        emit_reward(cast("float", value))
    else:
        emit_span(SpanNames.OBJECT.value, {**object_attributes(value), semconv.OUTPUT: True})
    return []


def is_number(value: object) -> bool:
    """Tell whether *value* is one number that can be a reward; NaN is none, and a text never is."""
    if isinstance(value, (int, float)):
        return value == value  # noqa: PLR0124 - NaN is the one number that differs from itself
    if not hasattr(type(value), "__float__") or getattr(value, "shape", ()):
        return False
    number = ask(lambda: float(cast("float", value)), lambda _: math.nan)
    return not math.isnan(number)


def spans_of(value: object, agent: str) -> list[ReadableSpan | Span]:
    """Return the spans that *value* is a list of; empty when it holds none.

    Raises:
        MixedResultError: It holds spans and something else; the message names the agent and the place.
    """
    if not isinstance(value, (list, tuple)):
        return []
    items = cast("Sequence[object]", value)
    found = [item for item in items if _is_span(item)]
    if found and len(found) != len(items):
        place = next(index for index, item in enumerate(items) if not _is_span(item))
        msg = (
            f"{agent} returned a list that mixes {len(found)} spans with other things: element {place} is "
            f"{type(items[place]).__qualname__}; return only spans, or emit the rest with emit_object()"
        )
        raise MixedResultError(msg)
    return cast("list[Any]", found)


def _is_span(value: object) -> bool:
    if isinstance(value, ReadableSpan):
        return True
    if not hasattr(type(value), "model_fields"):
        return False
    from agentlightning.types.tracer import Span  # noqa: PLC0415 - loaded already where somebody made one

    return isinstance(value, Span)


def _record_spans(
    spans: Sequence[ReadableSpan | Span], rollout_id: str, attempt_id: str, writer: SpanWriter | None
) -> list[ReadableSpan]:
    """Store *spans*: those of the SDK go the way of every span, records are written at once."""
    readable = [span for span in spans if isinstance(span, ReadableSpan)]
    pipeline = get_pipeline()
    for span in readable:
        pipeline.hand_over(_stamped(span, rollout_id, attempt_id))
    records = [span.to_record() for span in spans if not isinstance(span, ReadableSpan)]
    for record in records:
        if not record.rollout_id:
            record.rollout_id, record.attempt_id = rollout_id, attempt_id
        Redactor().redact(record)
    if records:
        _write(WriteBatch(spans=records), writer)
    return readable


def _stamped(span: ReadableSpan, rollout_id: str, attempt_id: str) -> ReadableSpan:
    """Return *span* as one of the attempt, unless it says where it belongs."""
    attributes = span.attributes or {}
    if semconv.ATTEMPT_ID in attributes:
        return span
    return ReadableSpan(
        name=span.name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes={**attributes, semconv.ROLLOUT_ID: rollout_id, semconv.ATTEMPT_ID: attempt_id},
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _write(batch: WriteBatch, writer: SpanWriter | None) -> None:
    if writer is not None:
        writer.write_batch(batch)
        return
    from agentlightning.store.url import open_writer  # noqa: PLC0415 - only for spans that a direct call returned

    default = open_writer()
    try:
        default.write_batch(batch)
    finally:
        default.close()
