"""Operations: what takes time, as a span around a function or a block of the program."""

from __future__ import annotations

import functools
import inspect
import os
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from agentlightning import semconv, settings
from agentlightning._internal.guard import failures, guard
from agentlightning.emitter.attribute import event_attributes
from agentlightning.emitter.object import json_text
from agentlightning.emitter.utils import is_enabled, start_span

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
    from types import TracebackType

    from opentelemetry.trace import Span

FnType = TypeVar("FnType", bound="Callable[..., Any]")

KINDS = ("chain", "agent", "tool", "retriever", "reranker", "embedding", "guardrail", "evaluator", "prompt", "llm")
"""What an operation can be; ``agl show`` and all readers of OpenInference tell them apart."""

MAX_ITEMS = 10_000
"""Values of the input, and of the output, that are written out; they are encoded on the program's thread."""

_NAMED = {"tool": "tool.name", "agent": "agent.name"}
_RECEIVERS = ("self", "cls")


@overload
def operation(name: FnType, /) -> FnType: ...
@overload
def operation(
    name: str | None = None,
    /,
    *,
    kind: str = "chain",
    input: object = ...,
    attributes: Mapping[str, Any] | None = None,
    record_input: bool = True,
    record_output: bool = True,
) -> Operation: ...
def operation(
    name: str | Callable[..., Any] | None = None,
    /,
    *,
    kind: str = "chain",
    input: object = None,  # noqa: A002 - what it is called on the span
    attributes: Mapping[str, Any] | None = None,
    record_input: bool = True,
    record_output: bool = True,
) -> Any:
    """Record what takes time as a span, as a decorator, with arguments or without, or as a block.

    A decorated function (plain, async, generator, async generator, method) keeps name, signature, results and
    exceptions; its arguments but ``self`` are the input, its result or the items that it yields the output. A block
    gets its input by *input* and its output by ``set_output``. What runs inside lies under the span.

    Args:
        name: Of the span; None for the name of the function.
        kind: One of ``KINDS``.
        input: Of a block.
        attributes: More attributes of the span.
        record_input: Whether the input is recorded.
        record_output: Whether the output is recorded.

    Raises:
        ValueError: No such kind.
        TypeError: What is decorated is no function. Nothing is raised while an operation runs.
    """
    if kind not in KINDS:
        msg = f"the kind of an operation is one of {', '.join(KINDS)}, not {kind!r}"
        raise ValueError(msg)
    given = name if isinstance(name, str) else None
    made = Operation(given, kind, dict(attributes or {}), record_input=record_input, record_output=record_output)
    made.input = input
    return made if name is None or isinstance(name, str) else made(name)


class Operation(AbstractContextManager["Run"], AbstractAsyncContextManager["Run"]):
    """See ``operation``. As a block it is entered once at a time; as a decorator it may serve many calls at once."""

    def __init__(
        self, name: str | None, kind: str, attributes: dict[str, Any], *, record_input: bool, record_output: bool
    ) -> None:
        """Prepare it; nothing is recorded yet."""
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.record_input = record_input
        self.record_output = record_output
        self.input: object = None
        self._run: Run | None = None
        self._block: AbstractContextManager[None] | None = None

    def __enter__(self) -> Run:
        """Start the span; it is the current one until the block is left."""
        run = self._run = Run(self, self.name or "operation")
        run.start(self.input)
        self._block = run.current()
        self._block.__enter__()
        return run

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End the span, with the exception that left the block, if any; the exception goes on."""
        block, self._block = self._block, None
        run, self._run = self._run, None
        if block is not None and run is not None:
            block.__exit__(exc_type, exc, traceback)
            run.end(exc)

    async def __aenter__(self) -> Run:
        """Start, as ``with`` does."""
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End, as ``with`` does."""
        self.__exit__(exc_type, exc, traceback)

    def __call__(self, fn: FnType) -> FnType:
        """Return *fn* with a span around each call.

        Raises:
            TypeError: *fn* cannot be called.
        """
        if not callable(fn):
            msg = f"an operation is a function, not {type(fn).__qualname__}; put @operation below @classmethod"
            raise TypeError(msg)
        plan = _Plan(self, fn)
        is_plain = inspect.isroutine(fn) or inspect.isclass(fn)
        target: Callable[..., Any] = fn if is_plain else getattr(fn, "__call__", fn)  # noqa: B004 - of an object
        if inspect.isasyncgenfunction(target):
            wrapped: Callable[..., Any] = _async_generator(plan, fn)
        elif inspect.isgeneratorfunction(target):
            wrapped = _generator(plan, fn)
        elif inspect.iscoroutinefunction(target):
            wrapped = _coroutine(plan, cast("Callable[..., Awaitable[Any]]", fn))
        else:
            wrapped = _plain(plan, fn)
        return cast("FnType", functools.wraps(fn)(wrapped))


class _Plan:
    """What is known about a decorated function before it is called."""

    def __init__(self, operation: Operation, fn: Callable[..., Any]) -> None:
        self._operation = operation
        self._name = operation.name or getattr(fn, "__qualname__", type(fn).__qualname__).rpartition("<locals>.")[2]
        self._signature: inspect.Signature | None = None
        with guard("operation.signature"):
            try:
                self._signature = inspect.signature(fn)
            except (ValueError, TypeError):  # of a function written in C
                self._signature = None

    @property
    def keeps_output(self) -> bool:
        """Whether what a generator yields is recorded."""
        return self._operation.record_output

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        """Start the span of one call."""
        run = Run(self._operation, self._name)
        run.start(lambda: self._bound(args, kwargs), is_made=False)
        return run

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound: dict[str, Any] = {"args": args, "kwargs": kwargs}
        if self._signature is not None:
            try:
                bound = dict(self._signature.bind(*args, **kwargs).arguments)
            except TypeError:  # the call itself will say so
                return bound
        first = next(iter(bound), "")
        if first in _RECEIVERS:
            del bound[first]
        return bound


class Run:
    """One operation while it runs. An error of ours stays inside; used by one thread at a time."""

    def __init__(self, operation: Operation, name: str) -> None:
        """Make it; the span is not started yet."""
        self._operation = operation
        self._name = name
        self._pid = os.getpid()
        self.span: Span | None = None
        """The span; None where nothing is recorded."""

    def start(self, value: object, *, is_made: bool = True) -> None:
        """Start the span with the input *value*, or with what it returns; for the decorator and the block."""
        with guard("operation.start"):
            if not is_enabled():
                return
            operation = self._operation
            first: dict[str, Any] = {semconv.OPENINFERENCE_KIND: operation.kind.upper()}
            if operation.kind in _NAMED:
                first[_NAMED[operation.kind]] = self._name
            if operation.attributes:
                first.update(event_attributes(operation.attributes))
            span = self.span = start_span(self._name, first)
            if operation.record_input and span.is_recording() and value is not None:
                made = value if is_made else cast("Callable[[], object]", value)()
                self._set(semconv.INPUT_VALUE, semconv.INPUT_MIME_TYPE, made)

    def current(self) -> AbstractContextManager[None]:
        """Return a block in which the span is the current one; entered and left by the same thread."""
        return _Current(self.span)

    def set_output(self, value: object) -> None:
        """Record *value* as the output; the last one wins. Never raises."""
        with guard("operation.output"):
            if self._operation.record_output and self.span is not None and self.span.is_recording():
                self._set(semconv.OUTPUT_VALUE, semconv.OUTPUT_MIME_TYPE, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set more attributes; values that OpenTelemetry does not take become JSON text. Never raises."""
        with guard("operation.attributes"):
            if self.span is not None:
                self.span.set_attributes(event_attributes(attributes))

    def _set(self, key: str, mime_key: str, value: object) -> None:
        if self.span is None:
            return
        limit = settings.get(settings.MAX_VALUE_BYTES)
        if type(value) is str:
            self.span.set_attribute(key, value)
            self.span.set_attribute(mime_key, "text/plain")
        else:
            self.span.set_attribute(key, json_text(value, max_items=MAX_ITEMS, max_chars=limit))
            self.span.set_attribute(mime_key, "application/json")

    def end(self, error: BaseException | None = None, *, closed_early: bool = False) -> None:
        """End the span; *error* is what the program raised. A second call does nothing. Never raises."""
        span, self.span = self.span, None
        if span is None or self._pid != os.getpid():
            return  # after a fork the span is the parent's to end
        if error is not None:
            with guard("operation.exception"):
                _note_error(span, error)
        with guard("operation.end"):
            if closed_early:
                span.set_attribute(semconv.STREAM_STATE, "closed_early")
            span.end()


def _note_error(span: Span, error: BaseException) -> None:
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


class _Current(AbstractContextManager[None]):
    """Block in which a span is the current one."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span | None) -> None:
        self._span = span
        self._token: Any = None

    def __enter__(self) -> None:
        if self._span is not None:
            with guard("operation.attach"):
                from opentelemetry import context, trace  # noqa: PLC0415 - importing the emitters loads no OpenTelemetry

                self._token = context.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._token is not None:
            with guard("operation.detach"):
                from opentelemetry import context  # noqa: PLC0415 - as above

                context.detach(self._token)


def _plain(plan: _Plan, fn: Callable[..., Any]) -> Callable[..., Any]:
    def run_plain(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the user's own function
        run = plan.start(args, kwargs)
        try:
            with run.current():
                result = fn(*args, **kwargs)
        except BaseException as error:
            run.end(error)
            raise
        run.set_output(result)
        run.end()
        return result

    return run_plain


def _coroutine(plan: _Plan, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def run_async(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the user's own function
        run = plan.start(args, kwargs)
        try:
            with run.current():
                result = await fn(*args, **kwargs)
        except BaseException as error:
            run.end(error)
            raise
        run.set_output(result)
        run.end()
        return result

    return run_async


class _Items:
    """The items that a generator yielded, as its output; the first ones, and how many there were."""

    def __init__(self, run: Run, *, keep: bool) -> None:
        self._run = run
        self._keep = keep
        self._items: list[object] = []
        self._count = 0

    def add(self, item: object) -> None:
        self._count += 1
        if self._keep and len(self._items) < _KEPT_ITEMS:
            self._items.append(item)

    def end(self, error: BaseException | None = None, *, closed_early: bool = False) -> None:
        if self._count > len(self._items) and self._keep:
            self._items.append(f"... {self._count - len(self._items)} more")
        self._run.set_output(self._items)
        self._run.end(error, closed_early=closed_early)


_KEPT_ITEMS = 1_000
"""Items of a generator that are kept until it ends."""


def _generator(plan: _Plan, fn: Callable[..., Any]) -> Callable[..., Any]:
    keep = plan.keeps_output

    def run_generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:  # noqa: ANN401 - the user's own function
        source: Generator[Any, Any, Any] = fn(*args, **kwargs)
        run = plan.start(args, kwargs)
        items = _Items(run, keep=keep)
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                # Never current across a yield: the reader's own spans are not part of it.
                with run.current():
                    item = _advance(source, sent, thrown)
            except StopIteration as stop:
                items.end()
                return stop.value
            except BaseException as error:
                items.end(error)
                raise
            items.add(item)
            sent = thrown = None
            try:
                sent = yield item
            except GeneratorExit:
                break
            except BaseException as error:  # noqa: BLE001 - thrown in by the reader, handed to the original
                thrown = error
        # Outside the except block: what the original raises now gets no context that it would not have without us.
        try:
            with run.current():
                source.close()
        finally:
            items.end(closed_early=True)
        return None

    return run_generator


def _advance(source: Generator[Any, Any, Any], sent: Any, thrown: BaseException | None) -> Any:  # noqa: ANN401 - the user's own
    if thrown is not None:
        return source.throw(thrown)
    return next(source) if sent is None else source.send(sent)


def _async_generator(plan: _Plan, fn: Callable[..., Any]) -> Callable[..., Any]:
    keep = plan.keeps_output

    async def run_async_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:  # noqa: ANN401 - the user's own function
        source: AsyncGenerator[Any, Any] = fn(*args, **kwargs)
        run = plan.start(args, kwargs)
        items = _Items(run, keep=keep)
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                with run.current():
                    item = await (source.asend(sent) if thrown is None else source.athrow(thrown))
            except StopAsyncIteration:
                items.end()
                return
            except BaseException as error:
                items.end(error)
                raise
            items.add(item)
            sent = thrown = None
            try:
                sent = yield item
            except GeneratorExit:
                break
            except BaseException as error:  # noqa: BLE001 - thrown in by the reader, handed to the original
                thrown = error
        try:
            with run.current():
                await source.aclose()
        finally:
            items.end(closed_early=True)

    return run_async_generator
