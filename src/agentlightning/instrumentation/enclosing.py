"""The span of a framework that is no OpenTelemetry context: who calls a model below it finds it here.

LangChain reports its steps to callbacks, which cannot make a span the current one: nobody promises that it is ended in
the same context. So the newest one is only remembered in the context of the caller, and passed over once it has ended.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry import context as context_api
from opentelemetry import trace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span


class _Enclosing(NamedTuple):
    """A span that has begun in this context, and the one before it."""

    span: Span
    outside: Span
    """The current span when it began: where another one is current now, that one is nearer."""
    before: _Enclosing | None


_newest: ContextVar[_Enclosing | None] = ContextVar("agentlightning_enclosing_span", default=None)


def enclose(span: Span) -> None:
    """Remember that *span* has begun in this context; it is forgotten once it has ended."""
    _newest.set(_Enclosing(span, trace.get_current_span(), _running(_newest.get())))


def enclosing_context() -> Context:
    """Return the context for a span that starts now: the current one, or below a span that encloses this place."""
    current = context_api.get_current()
    found = _running(_newest.get())
    if found is None or trace.get_current_span(current) is not found.outside:
        return current
    return trace.set_span_in_context(found.span, current)


def _running(found: _Enclosing | None) -> _Enclosing | None:
    while found is not None and not found.span.is_recording():
        found = found.before
    return found
