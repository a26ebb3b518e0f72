"""What the emitters share: the tracer, and the one way to write a finished span."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning._internal.guard import guard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from opentelemetry import trace as trace_api
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Status

log = logging.getLogger(__name__)

EmittedValue = str | bool | float
"""What the attributes of emitted spans hold."""


_GUARD = guard("emitter.emit_span")


def is_enabled() -> bool:
    """Tell whether anything is captured at all; asked before work is done that nobody would see."""
    return settings.get(settings.ENABLED)


def get_tracer() -> trace_api.Tracer:
    """Return the tracer of the emitters; the first call joins the program's provider, or makes ours.

    With ``AGL_ENABLED=0`` it is one that records nothing. Thread-safe.
    """
    return _provider_module().get_tracer("agentlightning")


@functools.lru_cache(maxsize=1)
def _provider_module() -> ModuleType:
    # Imported when used: importing the emitters must not load OpenTelemetry. Kept, because even an import statement
    # that finds its module loaded takes longer than emitting.
    from agentlightning.tracer import provider  # noqa: PLC0415 - see above

    return provider


def start_span(name: str, attributes: Mapping[str, EmittedValue] | None = None) -> trace_api.Span:
    """Start a span under the current one; the caller ends it."""
    return get_tracer().start_span(name, attributes=attributes)


def emit_span(name: str, attributes: dict[str, EmittedValue], status: Status | None = None) -> ReadableSpan | None:
    """Write one span that begins and ends now, under the current span.

    All emitters go through here. *attributes* becomes the span's. Returns the span, or None where nothing is recorded
    (capture is off, not sampled, a provider that is not the SDK's, or an error of ours, which the guard counts).
    Never raises.
    """
    with _GUARD:
        if not is_enabled():
            return None
        emitted = _provider_module().emit(name, attributes, status)
        if emitted is not None:
            return emitted
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
