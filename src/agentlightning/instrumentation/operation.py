"""A call of another library's method as a span: plain calls and generators, with nothing of it visible to the caller.

The rules that hold here: the result and the exception are the original's, the same objects; a context token is never
kept across a ``yield``; the parent is the span that was current when the call was made; an error of ours is swallowed.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from agentlightning import semconv
from agentlightning._internal.failing import Telling
from agentlightning._internal.guard import guard
from agentlightning.instrumentation.attribute import RESERVE, room
from agentlightning.instrumentation.enclosing import enclosing_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from agentlightning.instrumentation.attribute import Attributes

_innermost: ContextVar[object | None] = ContextVar("agentlightning_innermost_operation", default=None)
"""The object whose method runs as the innermost operation: its ``super()`` calls are part of it."""


class Operation:
    """One call on its way to a span. Subclasses say how it is named and what is read from arguments and result.

    Used by one thread at a time: by the caller of the method, or by whoever takes the generator's next item.
    """

    is_part = False
    """Whether it is recorded also inside another operation of its owner, as a part of that."""

    def __init__(self, tracer: Tracer, owner: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Note where the call was made; no span is started yet."""
        self.owner = owner
        self.args = args
        self.kwargs = kwargs
        self._tracer = tracer
        self._parent: Context = enclosing_context()
        self._span: Span | None = None

    def name(self) -> str:
        """Return the span's name."""
        raise NotImplementedError

    def request_attributes(self) -> Attributes:
        """Return what is known when the call starts, its kind first."""
        raise NotImplementedError

    def shorten(self, attributes: Attributes, space: int) -> Attributes:
        """Return *attributes* in at most *space* ones, where a provider limits their number."""
        del space
        return attributes

    def result_attributes(self, result: object) -> Attributes:
        """Return what a plain call's result tells."""
        raise NotImplementedError

    def note_item(self, item: object) -> None:
        """Take in one item of a generator."""

    def stream_attributes(self) -> Attributes:
        """Return what the items so far tell."""
        return {}

    def start(self) -> None:
        """Start the span under the place of the call."""
        with guard("operation.start"):
            span = self._tracer.start_span(self.name(), context=self._parent)
            self._span = span
            if span.is_recording():
                with guard("operation.request"):
                    space = room(span)
                    attributes = self.request_attributes()
                    if space is not None and len(attributes) + RESERVE > space:
                        attributes = self.shorten(attributes, space - RESERVE)
                    span.set_attributes(attributes)

    def succeed(self, attributes: Callable[[], Attributes]) -> None:
        """End the span as one that went well."""
        self._end(attributes, Status(StatusCode.OK))

    def fail(self, error: BaseException, attributes: Callable[[], Attributes] = dict) -> None:
        """End the span with *error*, which goes on its way to the caller."""
        span = self._span
        if span is not None:
            with guard("operation.exception"):
                span.record_exception(error)
        text = type(error).__name__
        with guard("operation.error"):  # the text of an error is the program's code, and may fail itself
            text = f"{text}: {error}"
        self._end(attributes, Status(StatusCode.ERROR, text))

    def returned(self) -> None:
        """End the span of a generator that has come to its end."""
        self.succeed(self.stream_attributes)

    def raised(self, error: BaseException) -> None:
        """End the span of a generator with *error*, which goes on its way to the reader."""
        self.fail(error, self.stream_attributes)

    def close_early(self) -> None:
        """End the span of a generator that its reader left: no error, and marked."""
        self._end(lambda: {**self.stream_attributes(), semconv.STREAM_STATE: "closed_early"}, None)

    def _end(self, attributes: Callable[[], Attributes], status: Status | None) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        with guard("operation.end"):
            if span.is_recording():
                with guard("operation.result"):
                    span.set_attributes(attributes())
                if status is not None:
                    span.set_status(status)
        with guard("operation.end"):
            span.end()

    def current(self) -> _Current:
        """Return a block in which the span is the current one."""
        return _Current(self.owner, self._span, self._parent)


class _Current:
    """Block in which an operation's span is current; entered and left by the same thread."""

    __slots__ = ("_otel", "_own", "_owner", "_parent", "_span")

    def __init__(self, owner: object, span: Span | None, parent: Context) -> None:
        self._owner = owner
        self._span = span
        self._parent = parent
        self._otel: Token[Context] | None = None

    def __enter__(self) -> None:
        self._own = _innermost.set(self._owner)
        if self._span is not None:
            with guard("operation.attach"):
                self._otel = context_api.attach(trace.set_span_in_context(self._span, self._parent))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._otel is not None:
            with guard("operation.detach"):
                context_api.detach(self._otel)
        _innermost.reset(self._own)


def is_inside(owner: object) -> bool:
    """Tell whether a call on *owner* is part of the innermost operation, such as a ``super()`` call."""
    return _innermost.get() is owner


def call(operation: Operation, original: Callable[..., object]) -> object:
    """Run a plain call as a span and return what it returns."""
    operation.start()
    with operation.current(), Telling(operation.fail):
        result = original(operation.owner, *operation.args, **operation.kwargs)
    operation.succeed(lambda: operation.result_attributes(result))
    return result
