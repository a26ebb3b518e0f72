"""Operations: what takes time, as a span around a function or a block of the program."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, TypeVar, cast, overload

from agentlightning import semconv, settings
from agentlightning._internal.guard import guard
from agentlightning._internal.passing import pass_on
from agentlightning.emitter.attribute import event_attributes
from agentlightning.emitter.object import json_text
from agentlightning.emitter.utils import CurrentSpan, is_enabled, note_error, start_span

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
    from types import TracebackType

    from opentelemetry.trace import Span
    from typing_extensions import Self

    from agentlightning.emitter.utils import EmittedValue

FnType = TypeVar("FnType", bound="Callable[..., object]")

KINDS = ("chain", "agent", "tool", "retriever", "reranker", "embedding", "guardrail", "evaluator", "prompt", "llm")
"""What an operation can be; ``agl show`` and all readers of OpenInference tell them apart."""

MAX_ITEMS = 10_000
"""Values of the input, and of the output, that are written out; they are encoded on the program's thread."""

_NAMED = {"tool": "tool.name", "agent": "agent.name"}
_RECEIVERS = ("self", "cls")


@overload
def operation(name: FnType, /) -> FnType:
    """As ``@operation``."""


@overload
def operation(
    name: str | None = None,
    /,
    *,
    kind: str = "chain",
    input: object = ...,
    attributes: Mapping[str, object] | None = None,
    record_input: bool = True,
    record_output: bool = True,
) -> Operation:
    """As ``@operation(...)``, and as a block."""


def operation(
    name: str | Callable[..., object] | None = None,
    /,
    *,
    kind: str = "chain",
    input: object = None,  # noqa: A002 - what it is called on the span
    attributes: Mapping[str, object] | None = None,
    record_input: bool = True,
    record_output: bool = True,
) -> Operation | Callable[..., object]:
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
        self, name: str | None, kind: str, attributes: dict[str, object], *, record_input: bool, record_output: bool
    ) -> None:
        """Prepare it; nothing is recorded yet."""
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.record_input = record_input
        self.record_output = record_output
        self.input: object = None
        self._run: Run | None = None

    def __enter__(self) -> Run:
        """Start the span; it is the current one until the block is left."""
        run = self._run = Run(self, self.name or "operation")
        run.start(self.input)
        return run.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End the span, with the exception that left the block, if any; the exception goes on."""
        run, self._run = self._run, None
        if run is not None:
            run.__exit__(exc_type, exc, traceback)

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
        target: object = fn if is_plain else getattr(fn, "__call__", fn)  # noqa: B004 - of an object
        wrapped: Callable[..., object]
        if inspect.isasyncgenfunction(target):
            wrapped = _async_generator(plan, cast("Callable[..., AsyncGenerator[object, object]]", fn))
        elif inspect.isgeneratorfunction(target):
            wrapped = _generator(plan, cast("Callable[..., Generator[object, object, object]]", fn))
        elif inspect.iscoroutinefunction(target):
            wrapped = _coroutine(plan, cast("Callable[..., Awaitable[object]]", fn))
        else:
            wrapped = _plain(plan, fn)
        return cast("FnType", functools.wraps(fn)(wrapped))


class _Plan:
    """What is known about a decorated function before it is called."""

    def __init__(self, operation: Operation, fn: Callable[..., object]) -> None:
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

    def start(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Run:
        """Start the span of one call."""
        run = Run(self._operation, self._name)
        run.start(lambda: self._bound(args, kwargs), is_made=False)
        return run

    def _bound(self, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object]:
        bound: dict[str, object] = {"args": args, "kwargs": kwargs}
        if self._signature is not None:
            try:
                bound = dict(self._signature.bind(*args, **kwargs).arguments)
            except TypeError:  # the call itself will say so
                return bound
        first = next(iter(bound), "")
        if first in _RECEIVERS:
            del bound[first]
        return bound


class Run(AbstractContextManager["Run"]):
    """One operation while it runs, and the block that it runs in. An error of ours stays inside; used by one thread."""

    def __init__(self, operation: Operation, name: str) -> None:
        """Make it; the span is not started yet."""
        self._operation = operation
        self._name = name
        self._pid = os.getpid()
        self.span: Span | None = None
        """The span; None where nothing is recorded."""
        self._block: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        """Make the span, which was started, the current one."""
        block = self._block = self.current()
        block.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End the span, with the exception that left the block, if any; the exception goes on."""
        block, self._block = self._block, None
        if block is not None:
            block.__exit__(exc_type, exc, traceback)
        self.end(exc)

    def start(self, value: object, *, is_made: bool = True) -> None:
        """Start the span with the input *value*, or with what it returns; for the decorator and the block."""
        with guard("operation.start"):
            if not is_enabled():
                return
            operation = self._operation
            first: dict[str, EmittedValue] = {semconv.OPENINFERENCE_KIND: operation.kind.upper()}
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
        return CurrentSpan(self.span)

    def set_output(self, value: object) -> None:
        """Record *value* as the output; the last one wins. Never raises."""
        with guard("operation.output"):
            if self._operation.record_output and self.span is not None and self.span.is_recording():
                self._set(semconv.OUTPUT_VALUE, semconv.OUTPUT_MIME_TYPE, value)

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
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
                note_error(span, error)
        with guard("operation.end"):
            if closed_early:
                span.set_attribute(semconv.STREAM_STATE, "closed_early")
            span.end()


def _plain(plan: _Plan, fn: Callable[..., object]) -> Callable[..., object]:
    def run_plain(*args: object, **kwargs: object) -> object:
        """Call the function in a span; its result and errors are its own."""
        with plan.start(args, kwargs) as run:
            result = fn(*args, **kwargs)
            run.set_output(result)
            return result

    return run_plain


def _coroutine(plan: _Plan, fn: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    async def run_async(*args: object, **kwargs: object) -> object:
        """Await the function in a span; its result and errors are its own."""
        with plan.start(args, kwargs) as run:
            result = await fn(*args, **kwargs)
            run.set_output(result)
            return result

    return run_async


class _Items:
    """Beside a generator: the items that it yielded, as the output; the first ones, and how many there were."""

    def __init__(self, plan: _Plan, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self._plan = plan
        self._arguments = args, kwargs
        self._run: Run | None = None
        self._items: list[object] = []
        self._count = 0

    def start(self) -> None:
        """Begin the span, as the reader asks for the first item."""
        self._run = self._plan.start(*self._arguments)

    def current(self) -> AbstractContextManager[None]:
        """Return a block in which the span is the current one; nothing happens in it before ``start``."""
        return contextlib.nullcontext() if self._run is None else self._run.current()

    def note_item(self, item: object) -> None:
        """Count *item*, and keep the first ones where the output is recorded."""
        self._count += 1
        if self._plan.keeps_output and len(self._items) < _KEPT_ITEMS:
            self._items.append(item)

    def returned(self) -> None:
        """End the span of a generator that came to its end."""
        self._end()

    def raised(self, error: BaseException) -> None:
        """End the span with what the generator raised."""
        self._end(error)

    def close_early(self) -> None:
        """End the span of a generator that was not read to its end."""
        self._end(closed_early=True)

    def _end(self, error: BaseException | None = None, *, closed_early: bool = False) -> None:
        if self._run is None:
            return
        if self._count > len(self._items) and self._plan.keeps_output:
            self._items.append(f"... {self._count - len(self._items)} more")
        self._run.set_output(self._items)
        self._run.end(error, closed_early=closed_early)


_KEPT_ITEMS = 1_000
"""Items of a generator that are kept until it ends."""


def _generator(
    plan: _Plan, fn: Callable[..., Generator[object, object, object]]
) -> Callable[..., Generator[object, object, object]]:
    def run_generator(*args: object, **kwargs: object) -> Generator[object, object, object]:
        """Return the generator of the function with a span from its first item to its end."""
        return (yield from pass_on(fn(*args, **kwargs), _Items(plan, args, kwargs)))

    return run_generator


def _async_generator(
    plan: _Plan, fn: Callable[..., AsyncGenerator[object, object]]
) -> Callable[..., AsyncGenerator[object, object]]:
    async def run_async_generator(*args: object, **kwargs: object) -> AsyncGenerator[object, object]:
        """Return the asynchronous generator of the function with a span from its first item to its end."""
        source, items = fn(*args, **kwargs), _Items(plan, args, kwargs)
        sent: object = None
        thrown: BaseException | None = None
        items.start()
        while True:
            try:
                with items.current():
                    item = await (source.asend(sent) if thrown is None else source.athrow(thrown))
            except StopAsyncIteration:
                items.returned()
                return
            except BaseException as error:
                items.raised(error)
                raise
            items.note_item(item)
            sent = thrown = None
            try:
                sent = yield item
            except GeneratorExit:
                break
            except BaseException as error:  # noqa: BLE001 - thrown in by the reader, handed to the original
                thrown = error
        try:
            with items.current():
                await source.aclose()
        finally:
            items.close_early()

    return run_async_generator
