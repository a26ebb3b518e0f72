"""Exceptions as spans."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, cast

from agentlightning import semconv
from agentlightning._internal.failing import ask
from agentlightning._internal.guard import guard
from agentlightning.emitter.event import CustomEvent, event_factory
from agentlightning.emitter.utils import EmittedValue, emit_span, is_enabled, wrong_type
from agentlightning.semconv import SpanNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Status

_NAME = SpanNames.EXCEPTION.value


def emit_exception(exception: BaseException) -> None:
    """Record *exception* as a span ``agentlightning.exception`` with status ERROR under the current span.

    Attributes are those of OpenTelemetry: ``exception.type`` (with its module unless built in), ``.message``,
    ``.stacktrace`` (with causes, without local variables) and ``.escaped``. What is no exception is logged and
    skipped. Never raises. Thread-safe; works without any tracer.
    """
    with guard("emitter.exception"):
        if is_enabled():
            _emit(exception)


def _emit(exception: object) -> None:
    if not isinstance(exception, BaseException):
        wrong_type("emit_exception", "an exception", exception)
        return
    attributes = _attributes(exception)
    emit_span(_NAME, attributes, _status(attributes))


def _attributes(exception: BaseException) -> dict[str, EmittedValue]:
    cls = type(exception)
    return {
        semconv.EXCEPTION_TYPE: cls.__qualname__
        if cls.__module__ == "builtins"
        else f"{cls.__module__}.{cls.__qualname__}",
        semconv.EXCEPTION_MESSAGE: _message(exception),
        semconv.EXCEPTION_STACKTRACE: _stacktrace(exception),
        semconv.EXCEPTION_ESCAPED: True,
    }


def _status(attributes: Mapping[str, object]) -> Status:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - importing the emitters loads no OpenTelemetry

    name, message = attributes.get(semconv.EXCEPTION_TYPE), attributes.get(semconv.EXCEPTION_MESSAGE)
    return Status(StatusCode.ERROR, f"{name}: {message}" if message else str(name))


def _message(exception: BaseException) -> str:
    return ask(lambda: str(exception), lambda _: "<no text: its __str__ failed>")


def _stacktrace(exception: BaseException) -> str:
    """Return the whole traceback; without its causes where one has a broken class, or they are too many."""
    return ask(
        lambda: "".join(traceback.format_exception(type(exception), exception, exception.__traceback__)),
        lambda _: "".join(traceback.format_tb(exception.__traceback__)),
    )


class ExceptionEvent(CustomEvent):
    """An exception as an event; its traceback is written when the event is made."""

    event_type = "exception"
    emit_exception = staticmethod(emit_exception)

    def __init__(self, exception: BaseException | None, attributes: Mapping[str, object] | None = None) -> None:
        """Make it of *exception*; of *attributes* where it was recorded elsewhere and only they are left."""
        made = _attributes(exception) if isinstance(exception, BaseException) else {}
        super().__init__(attributes={**made, **(attributes or {})})
        self.exception = exception
        """The exception, None for an event that was read back."""

    def extract_stacktrace(self) -> str:
        """Return the traceback with causes, without local variables; empty where none was recorded."""
        return str(self.attributes.get(semconv.EXCEPTION_STACKTRACE, ""))

    def validate(self) -> bool:
        """Tell whether there is an exception, or what was recorded of one."""
        return isinstance(self.attributes.get(semconv.EXCEPTION_TYPE), str)

    def span_name(self) -> str:
        """Return ``agentlightning.exception``."""
        return _NAME

    def span_attributes(self) -> dict[str, EmittedValue]:
        """Return the attributes ``exception.*`` of OpenTelemetry."""
        return dict(self.attributes)

    def span_status(self) -> Status:
        """Return ERROR with type and message."""
        return _status(self.attributes)


def _make(data: dict[str, object]) -> ExceptionEvent:
    return ExceptionEvent(cast("BaseException | None", data.pop("exception", None)), data)


event_factory.add_builtin("exception", _make)
