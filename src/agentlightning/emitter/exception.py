"""Exceptions as spans."""

from __future__ import annotations

import traceback

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning.emitter.utils import EmittedValue, emit_span, is_enabled, wrong_type
from agentlightning.semconv import SpanNames

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
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - importing the emitters loads no OpenTelemetry

    cls, message = type(exception), _message(exception)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    attributes: dict[str, EmittedValue] = {
        semconv.EXCEPTION_TYPE: name,
        semconv.EXCEPTION_MESSAGE: message,
        semconv.EXCEPTION_STACKTRACE: _stacktrace(exception),
        semconv.EXCEPTION_ESCAPED: True,
    }
    emit_span(_NAME, attributes, Status(StatusCode.ERROR, f"{name}: {message}" if message else name))


def _message(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception:  # noqa: BLE001 - __str__ of the user's class
        return "<no text: its __str__ failed>"


def _stacktrace(exception: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))
    except Exception:  # noqa: BLE001 - a chain of causes with a broken class, or too long a chain
        return "".join(traceback.format_tb(exception.__traceback__))
