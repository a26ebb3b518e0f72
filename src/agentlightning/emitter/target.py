"""The span that something is said about: any form of it as a link, with the rollout that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agentlightning import semconv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link, Span, SpanContext

    from agentlightning.emitter.utils import EmittedValue
    from agentlightning.pipeline.receipt import Receipt
    from agentlightning.types.tracer import SpanLike

    SpanTarget = SpanLike | ReadableSpan | Span | SpanContext | Receipt
    """What can be pointed to: a span of OpenTelemetry, ended or not, its context, a span of a store, a receipt."""


def link_to(target: SpanTarget) -> tuple[Link, dict[str, EmittedValue]]:
    """Return a link to *target* and the attributes that say where it belongs: its id, its rollout where that is known.

    Raises:
        ValueError: *target* is no span, or one that was never recorded.
    """
    from opentelemetry.trace import Link  # noqa: PLC0415 - importing the emitters loads no OpenTelemetry

    span: object = getattr(target, "span", target)  # of a receipt
    context = _context(span)
    if context is None or not context.is_valid:
        msg = f"a target is a span that was recorded, its context, or a receipt, not {type(target).__qualname__}"
        raise ValueError(msg)
    attributes: dict[str, EmittedValue] = {semconv.TARGET: f"{context.span_id:016x}"}
    attributes.update(_stamps(span))
    return Link(context), attributes


def _context(span: object) -> SpanContext | None:
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415 - as above

    if isinstance(span, SpanContext):
        return span
    get = getattr(span, "get_span_context", None)
    if get is not None:
        found: object = get()
        return found if isinstance(found, SpanContext) else None
    trace_id, span_id = getattr(span, "trace_id", None), getattr(span, "span_id", None)
    if not isinstance(trace_id, str) or not isinstance(span_id, str):
        return None
    try:
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1))
    except ValueError:
        return None


def _stamps(span: object) -> dict[str, EmittedValue]:
    attributes = cast("Mapping[str, object]", getattr(span, "attributes", None) or {})
    rollout_id, attempt_id = attributes.get(semconv.ROLLOUT_ID), attributes.get(semconv.ATTEMPT_ID)
    if rollout_id is None:  # a span of a store has them as fields
        rollout_id, attempt_id = getattr(span, "rollout_id", None), getattr(span, "attempt_id", None)
    if isinstance(rollout_id, str) and rollout_id and isinstance(attempt_id, str) and attempt_id:
        return {semconv.ROLLOUT_ID: rollout_id, semconv.ATTEMPT_ID: attempt_id}
    return {}
