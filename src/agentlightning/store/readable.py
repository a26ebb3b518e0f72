"""Spans of the OpenTelemetry SDK as spans of a store, for ``add_otel_span`` of every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning._internal.ids import process_key
from agentlightning.types.convert import record_from_readable, resource_record
from agentlightning.types.tracer import Span
from agentlightning.view.integrity import flag

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


def span_of_readable(rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int) -> Span:
    """Return *readable_span* as a span of this attempt, whatever the span itself says it belongs to."""
    record = record_from_readable(
        readable_span,
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        counter=sequence_id,
        process=process_key(),
        resource=resource_record(readable_span.resource),
    )
    record.rollout_id, record.attempt_id = rollout_id, attempt_id
    flag(record)
    return Span.from_record(record, sequence_id)
