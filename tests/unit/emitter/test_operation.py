"""Operations: spans around functions and blocks that change nothing for the program."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from agentlightning._internal.guard import failures
from agentlightning.emitter import emit_message, operation
from agentlightning.emitter.operation import KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator

    from opentelemetry.sdk.trace import ReadableSpan
    from tests.unit.emitter.conftest import Recorded


class HostileError(Exception):
    """An exception that cannot be printed."""

    def __str__(self) -> str:
        raise MemoryError


def id_of(span: ReadableSpan) -> int:
    """Return the id of a span."""
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def described(span: ReadableSpan) -> tuple[str, Any, Any]:
    """Return name, input and output of a span."""
    attributes = span.attributes or {}
    values = [attributes.get(key) for key in ("input.value", "output.value")]
    plain = [
        json.loads(value) if isinstance(value, str) and value[:1] in '{["0123456789n' else value for value in values
    ]
    return span.name, plain[0], plain[1]


def test_a_function_is_recorded_and_stays_itself(recorded: Recorded) -> None:
    """A decorated function keeps name, documentation, signature and result; arguments and result are recorded."""

    @operation
    def search(query: str, *, limit: int = 3) -> list[str]:
        """Look for it."""
        emit_message("inside")
        return [query] * limit

    assert search("a", limit=2) == ["a", "a"]
    assert (search.__name__, search.__doc__) == ("search", "Look for it.")
    assert str(inspect.signature(search)) == "(query: 'str', *, limit: 'int' = 3) -> 'list[str]'"
    inside, span = recorded.spans
    assert described(span) == ("search", {"query": "a", "limit": 2}, ["a", "a"])
    assert (span.attributes or {})["openinference.span.kind"] == "CHAIN"
    assert inside.parent is not None
    assert inside.parent.span_id == id_of(span)
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_method_is_recorded_without_its_receiver(recorded: Recorded) -> None:
    """Of a method the arguments but ``self`` and ``cls`` are the input, whichever kind of method it is."""

    class Tool:
        @operation("tool.call", kind="tool", attributes={"version": 3, "why": {"a": 1}})
        def call(self, number: int) -> int:
            return number + 1

        @classmethod
        @operation
        def make(cls, number: int) -> int:
            return number

        @staticmethod
        @operation
        def plain(number: int) -> int:
            return number

    assert (Tool().call(1), Tool.make(2), Tool.plain(3)) == (2, 2, 3)
    first, second, third = recorded.spans
    assert described(first) == ("tool.call", {"number": 1}, 2)
    attributes = first.attributes or {}
    assert (attributes["tool.name"], attributes["version"], attributes["why"]) == ("tool.call", 3, '{"a": 1}')
    assert (second.name, third.name) == ("Tool.make", "Tool.plain")


def test_a_coroutine_is_recorded(recorded: Recorded) -> None:
    """A decorated coroutine function stays one; calls at the same time are told apart."""

    @operation
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        emit_message(str(number))
        return number

    async def both() -> list[int]:
        return list(await asyncio.gather(work(1), work(2)))

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(both()) == [1, 2]
    spans = {id_of(span): span for span in recorded.spans if span.name == "work"}
    inner = [span for span in recorded.spans if span.name != "work"]
    for span in inner:
        assert span.parent is not None
        assert described(spans[span.parent.span_id])[1] == {"number": int(str((span.attributes or {})["message"]))}


def test_a_generator_is_recorded_and_passes_everything_on(recorded: Recorded) -> None:
    """What is yielded, sent, thrown and returned goes through; the reader's own spans are not part of it."""

    @operation
    def count(limit: int) -> Generator[Any, Any, str]:
        got: list[Any] = []
        for number in range(limit):
            try:
                got.append((yield number))
            except KeyError as error:
                got.append(error)
        return repr(got)

    assert inspect.isgeneratorfunction(count)
    running = count(3)
    assert next(running) == 0
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert running.send("sent") == 1
    assert running.throw(KeyError("thrown")) == 2
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "['sent', KeyError('thrown'), None]"
    assert described(recorded.only) == ("count", {"limit": 3}, [0, 1, 2])


def test_a_generator_that_is_left_is_marked(recorded: Recorded) -> None:
    """A generator that its reader closes ends its span without an error and says so; one nobody reads leaves none."""
    closed: list[str] = []

    @operation
    def count() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append("closed")

    count()
    running = count()
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert closed == ["closed"]
    assert recorded.only.status.status_code is StatusCode.UNSET
    assert recorded.attribute("agentlightning.stream") == "closed_early"


def test_an_async_generator_is_recorded(recorded: Recorded) -> None:
    """An async generator keeps what it does when it is read, sent to, thrown into and closed."""

    @operation
    async def count(limit: int) -> AsyncGenerator[Any, Any]:
        for number in range(limit):
            try:
                got = yield number
                if got:
                    yield got
            except KeyError:
                yield "caught"

    async def read() -> list[Any]:
        running = count(3)
        seen = [await anext_of(running), await running.asend("sent"), await running.athrow(KeyError())]
        seen.extend([item async for item in running])
        left = count(5)
        await anext_of(left)
        await left.aclose()
        return seen

    async def anext_of(running: AsyncGenerator[Any, Any]) -> Any:
        return await running.__anext__()

    assert inspect.isasyncgenfunction(count)
    assert asyncio.run(read()) == [0, "sent", "caught", 1, 2]
    first, second = recorded.spans
    assert described(first) == ("count", {"limit": 3}, [0, "sent", "caught", 1, 2])
    assert (second.attributes or {})["agentlightning.stream"] == "closed_early"


def test_a_block_is_recorded(recorded: Recorded) -> None:
    """A block has the input that it was given, the output and attributes that were set, and the spans inside it."""
    with operation("judge", kind="evaluator", input={"answer": "42"}) as run:
        emit_message("inside")
        run.set_attributes({"model": "m", "nested": [{"a": None}]})
        run.set_output("good")
    inside, span = recorded.spans
    assert described(span) == ("judge", {"answer": "42"}, "good")
    assert (span.attributes or {})["nested"] == '[{"a": null}]'
    assert inside.parent is not None
    assert run.span is None
    run.set_output("too late")


def test_an_async_block_is_recorded(recorded: Recorded) -> None:
    """``async with`` does what ``with`` does."""

    async def work() -> None:
        async with operation("fetch") as run:
            await asyncio.sleep(0)
            run.set_output(1)

    asyncio.run(work())
    assert described(recorded.only) == ("fetch", None, 1)


def test_one_block_may_be_used_again(recorded: Recorded) -> None:
    """An operation that was left can be entered again, and gives another span."""
    again = operation("again")
    for _ in range(2):
        with again:
            pass
    assert [span.name for span in recorded.spans] == ["again", "again"]


@pytest.mark.parametrize(
    "error",
    [ValueError("why"), KeyboardInterrupt(), SystemExit(3), HostileError(), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("form", ["plain", "async", "block", "generator"])
def test_exceptions_pass_unchanged(recorded: Recorded, form: str, error: BaseException) -> None:
    """The exception that the program raises is the one it gets, without additions, and the span has status ERROR."""
    if form == "generator" and isinstance(error, GeneratorExit):
        pytest.skip("a generator that raises GeneratorExit was closed")

    def fail() -> None:
        raise error

    def run() -> None:
        if form == "plain":
            operation(fail)()
        elif form == "async":
            asyncio.new_event_loop().run_until_complete(coroutine())
        elif form == "block":
            with operation("block"):
                fail()
        else:
            list(generator())

    @operation
    async def coroutine() -> None:
        fail()

    @operation
    def generator() -> Iterator[int]:
        fail()
        yield 1

    with pytest.raises(type(error)) as caught:
        run()
    assert caught.value is error
    assert (error.__cause__, error.__context__, getattr(error, "__notes__", [])) == (None, None, [])
    assert recorded.only.status.status_code is StatusCode.ERROR
    assert (recorded.only.status.description or "").startswith(type(error).__qualname__)


def test_what_is_not_wanted_is_not_recorded(recorded: Recorded) -> None:
    """Input and output are left out where that was asked for."""

    @operation(record_input=False, record_output=False)
    def login(password: str) -> str:
        return password

    assert login("hunter2") == "hunter2"
    assert "hunter2" not in str(recorded.only.attributes)


def test_wrong_calls_fail_as_before(recorded: Recorded) -> None:
    """A call with wrong arguments raises the function's own TypeError."""

    @operation
    def work(number: int) -> int:
        return number

    with pytest.raises(TypeError, match="unexpected keyword argument 'b'"):
        work(1, b=2)  # type: ignore[call-arg]
    assert recorded.only.status.status_code is StatusCode.ERROR


def test_mistakes_are_told_when_it_is_made() -> None:
    """An unknown kind, and something that is no function, are errors at once."""
    with pytest.raises(ValueError, match="one of chain, agent"):
        operation("x", kind="nope")
    with pytest.raises(TypeError, match="below @classmethod"):
        operation("x")(classmethod(lambda cls: cls))  # type: ignore[type-var]
    assert {"tool", "agent", "llm"} <= set(KINDS)


def test_large_values_are_bounded(recorded: Recorded) -> None:
    """Of input and output as much is written out as the limits allow, whatever their size."""

    @operation
    def work(values: list[int], text: list[str]) -> int:
        return len(values) + len(text)

    assert work([1] * 50_000, ["x" * 5_000_000]) == 50_001
    assert len(str(recorded.attribute("input.value"))) < 1_200_000


def test_a_failure_of_ours_stays_ours(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where recording fails, the function runs as without it, and the failure is counted."""
    monkeypatch.setattr(failures, "loud", False)
    monkeypatch.setattr(failures, "_counts", {})

    def fail(*_: object, **__: object) -> str:
        raise RecursionError

    monkeypatch.setattr(sys.modules["agentlightning.emitter.operation"], "json_text", fail)

    @operation
    def work(number: int) -> list[int]:
        return [number]

    assert work(1) == [1]
    assert recorded.only.name == "work"
    assert failures.counts() == {"operation.start": 1, "operation.output": 1}


def test_nothing_is_recorded_when_capture_is_off(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``AGL_ENABLED=0`` a decorated function runs, and that is all."""
    monkeypatch.setenv("AGL_ENABLED", "0")

    @operation
    def work() -> int:
        return 1

    assert work() == 1
    assert recorded.spans == ()


def test_a_forked_child_leaves_the_operation_to_its_parent(recorded: Recorded) -> None:
    """A child that leaves the block too does not end the parent's span a second time."""
    with operation("parent"):
        pid = os.fork()
    if pid == 0:
        os._exit(len(recorded.spans))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert recorded.only.name == "parent"
