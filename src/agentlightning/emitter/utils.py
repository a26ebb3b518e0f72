"""What the emitters share: the tracer, and the one way to write a finished span."""

from __future__ import annotations

import functools
import logging
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from agentlightning import semconv, settings
from agentlightning._internal.guard import failures, guard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token
    from types import ModuleType, TracebackType

    from opentelemetry import trace as trace_api
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link, Status

    from agentlightning.pipeline.receipt import Receipt

log = logging.getLogger(__name__)

EmittedValue = str | bool | float | list[str] | list[bool] | list[float]
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


def note_error(span: trace_api.Span, error: BaseException) -> None:
    """Record *error*, which the program raised, on *span*; an error of its own text is counted."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - importing the emitters loads no OpenTelemetry

    name = type(error).__qualname__
    try:
        text = f"{name}: {error}"
        if isinstance(error, Exception):
            span.record_exception(error)
    except Exception as failure:  # noqa: BLE001 - __str__ of the user's class
        failures.note("operation.exception_text", failure)
        text = f"{name}: <no text: its __str__ failed>"
    span.set_status(Status(StatusCode.ERROR, text))


class CurrentSpan(AbstractContextManager[None]):
    """Block in which a span is the current one; None for no change. Entered and left by the same thread."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace_api.Span | None) -> None:
        """Make the block for *span*."""
        self._span = span
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        """Make the span the current one."""
        if self._span is not None:
            with guard("operation.attach"):
                from opentelemetry import context, trace  # noqa: PLC0415 - importing the emitters loads no OpenTelemetry

                self._token = context.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Make current what was so before."""
        if self._token is not None:
            with guard("operation.detach"):
                from opentelemetry import context  # noqa: PLC0415 - as above

                context.detach(self._token)


def emit_span(
    name: str,
    attributes: dict[str, EmittedValue],
    status: Status | None = None,
    link: Link | None = None,
    receipt: Receipt | None = None,
) -> ReadableSpan | None:
    """Write one span that begins and ends now, under the current span, or under the one that *link* points to.

    All emitters go through here. *attributes* becomes the span's. *receipt* learns what becomes of the span. Returns
    the span, or None where nothing is recorded (capture is off, not sampled, a provider that is not the SDK's, or an
    error of ours, which the guard counts). Never raises.
    """
    with _GUARD:
        if not is_enabled():
            if receipt is not None:
                _settle(receipt, "disabled")
            return None
        emitted = _provider_module().emit(name, attributes, status, link, receipt)
        return emitted or _emit_slowly(name, attributes, status, link, receipt)
    if receipt is not None:
        _settle(receipt, "failed")
    return None


def _emit_slowly(
    name: str,
    attributes: dict[str, EmittedValue],
    status: Status | None,
    link: Link | None,
    receipt: Receipt | None,
) -> ReadableSpan | None:
    """Take the SDK's ordinary way."""
    span = start_span(name, attributes) if link is None else _start_at(link, name, attributes)
    if status is not None:
        span.set_status(status)
    readable = _readable(span)
    if receipt is not None:
        if readable is None:
            _settle(receipt, _refusal(name, attributes, span))
        else:
            receipt.span = readable
            receipt.expect(span.get_span_context().span_id)
    span.end()
    return readable


def _start_at(link: Link, name: str, attributes: Mapping[str, EmittedValue]) -> trace_api.Span:
    """Start a span under the one that *link* points to, in that one's rollout where *attributes* know it."""
    from opentelemetry import trace  # noqa: PLC0415 - importing the emitters loads no OpenTelemetry

    at = link.context
    # Sampled: what is said about a span late is never left out because of a sampler that asks its parent.
    parent = trace.SpanContext(at.trace_id, at.span_id, at.is_remote, trace.TraceFlags(1), at.trace_state)
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    span = get_tracer().start_span(name, context=context, attributes=attributes, links=[link])
    for key in (semconv.ROLLOUT_ID, semconv.ATTEMPT_ID):
        if key in attributes:
            span.set_attribute(key, attributes[key])  # the processor has stamped it with the running rollout
    return span


def _refusal(name: str, attributes: Mapping[str, EmittedValue], span: trace_api.Span) -> str:
    """Return why *span* records nothing."""
    from opentelemetry import trace  # noqa: PLC0415 - as above

    from agentlightning._internal.context import home_rollout, running  # noqa: PLC0415 - only when somebody asks
    from agentlightning.pipeline.sampling import policy  # noqa: PLC0415 - as above

    if not span.get_span_context().is_valid:
        return "not_recorded"
    parent, rollout = trace.get_current_span().get_span_context(), running.get() or home_rollout()
    verdict = policy().decide(name, attributes, span.get_span_context().trace_id, parent, rollout)
    return verdict.lost or "not_recorded"


def _settle(receipt: Receipt, reason: str) -> None:
    from agentlightning.pipeline.receipt import DROPPED, Outcome  # noqa: PLC0415 - loaded with the first receipt

    receipt.settle(Outcome(DROPPED, reason))


def _readable(span: trace_api.Span) -> ReadableSpan | None:
    if not span.is_recording() and not span.get_span_context().is_valid:
        return None  # the no-op span: do not load the SDK for it
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - loaded already where it made the span

    return span if isinstance(span, ReadableSpan) else None


def wrong_type(function: str, wanted: str, value: object) -> None:
    """Log, without its content, that *function* was given a *value* that it does not take."""
    log.error("%s takes %s, not %s; nothing was recorded", function, wanted, type(value).__qualname__)
