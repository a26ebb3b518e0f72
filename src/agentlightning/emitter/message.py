"""Text messages as spans."""

from __future__ import annotations

from typing import cast

from agentlightning._internal.guard import guard
from agentlightning.emitter.event import CustomEvent, event_factory
from agentlightning.emitter.utils import EmittedValue, emit_span, is_enabled, wrong_type
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


class MessageEvent(CustomEvent):
    """A text message as an event."""

    event_type = "message"
    emit_message = staticmethod(emit_message)

    def __init__(self, message: str) -> None:
        """Make it of *message*; ``validate`` says whether that is text."""
        super().__init__(attributes={SpanAttributeNames.MESSAGE.value: message})

    @property
    def message(self) -> str:
        """The text."""
        return self.attributes[SpanAttributeNames.MESSAGE.value]

    def validate(self) -> bool:
        """Tell whether the message is text."""
        return isinstance(self.attributes.get(SpanAttributeNames.MESSAGE.value), str)

    def span_name(self) -> str:
        """Return ``agentlightning.message``."""
        return _NAME

    def span_attributes(self) -> dict[str, EmittedValue]:
        """Return the text as the attribute ``message``."""
        return {SpanAttributeNames.MESSAGE.value: str.__str__(self.message)}


def _make(data: dict[str, object]) -> MessageEvent:
    return MessageEvent(cast("str", data[SpanAttributeNames.MESSAGE.value]))


event_factory.add_builtin("message", _make)
