"""What the emitters share: the tracer, and the one way to write a finished span."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning._internal.guard import guard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry import trace as trace_api
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Status

    from agentlightning.semconv import SpanNames

log = logging.getLogger(__name__)

EmittedValue = str | bool | float
"""What the attributes of emitted spans hold."""


def is_enabled() -> bool:
    """Tell whether anything is captured at all; asked before work is done that nobody would see."""
    return settings.get(settings.ENABLED)


def get_tracer() -> trace_api.Tracer:
    """Return the tracer of the emitters; the first call joins the program's provider, or makes ours.

    With ``AGL_ENABLED=0`` it is one that records nothing. Thread-safe.
    """
    # Imported when used: importing the emitters must not load OpenTelemetry.
    from agentlightning.tracer import provider  # noqa: PLC0415

    return provider.get_tracer("agentlightning")


def start_span(name: SpanNames, attributes: Mapping[str, EmittedValue] | None = None) -> trace_api.Span:
    """Start a span under the current one; the caller ends it."""
    return get_tracer().start_span(name.value, attributes=attributes)


def emit_span(
    name: SpanNames, attributes: Mapping[str, EmittedValue], status: Status | None = None
) -> ReadableSpan | None:
    """Write one span that begins and ends now, under the current span.

    All emitters go through here. Returns the span, or None where nothing is recorded (capture is off, not sampled, a
    provider that is not the SDK's, or an error of ours, which the guard counts). Never raises.
    """
    with guard("emitter.emit_span"):
        if not is_enabled():
            return None
        span = start_span(name, attributes)
        if status is not None:
            span.set_status(status)
        span.end()
        return _readable(span)
    return None


def _readable(span: trace_api.Span) -> ReadableSpan | None:
    if not span.is_recording() and not span.get_span_context().is_valid:
        return None  # the no-op span: do not load the SDK for it
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - loaded already where it made the span

    return span if isinstance(span, ReadableSpan) else None


def wrong_type(function: str, wanted: str, value: object) -> None:
    """Log, without its content, that *function* was given a *value* that it does not take."""
    log.error("%s takes %s, not %s; nothing was recorded", function, wanted, type(value).__qualname__)
