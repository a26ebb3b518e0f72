"""Text messages as spans."""

from __future__ import annotations

from agentlightning._internal.guard import guard
from agentlightning.emitter.utils import emit_span, is_enabled, wrong_type
from agentlightning.semconv import SpanAttributeNames, SpanNames

_NAME = SpanNames.MESSAGE.value


def emit_message(message: str) -> None:
    """Record *message* as a span ``agentlightning.message`` under the current span.

    What is no text is logged and skipped. Never raises. Thread-safe; works without any tracer.
    """
    with guard("emitter.message"):
        if is_enabled():
            _emit(message)


def _emit(message: object) -> None:
    if not isinstance(message, str):
        wrong_type("emit_message", "a str", message)
        return
    # str.__str__: of an enum of strings the text, not the name.
    emit_span(_NAME, {SpanAttributeNames.MESSAGE.value: str.__str__(message)})
