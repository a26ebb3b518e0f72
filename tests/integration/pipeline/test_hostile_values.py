"""Values that fail when they are looked at: no emitter passes that on, and the ledger adds up after each."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning._internal.guard import failures
from agentlightning.emitter import (
    CustomEvent,
    ExceptionEvent,
    MessageEvent,
    ObjectEvent,
    emit_annotation,
    emit_event,
    emit_exception,
    emit_message,
    emit_object,
    emit_reward,
    operation,
    register_event_type,
    reward,
)
from agentlightning.pipeline import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("quiet", "own_pipeline")


class Hostile:
    """Every look at it fails with the error that it was made with."""

    def __init__(self, error: type[BaseException]) -> None:
        object.__setattr__(self, "error", error)

    def _fail(self, *_: object) -> Any:
        raise object.__getattribute__(self, "error")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __float__ = __format__ = _fail
    __getattr__ = __index__ = __contains__ = __getitem__ = __bytes__ = _fail


class HostileText(str):
    """Text whose methods fail."""

    __slots__ = ()

    def _fail(self, *_: object) -> Any:
        raise MemoryError

    __str__ = __repr__ = __eq__ = __hash__ = __len__ = encode = isascii = _fail  # type: ignore[assignment]


class HostileMapping(dict[str, Any]):
    """A mapping that cannot be read."""

    def _fail(self, *_: object) -> Any:
        raise RecursionError

    items = keys = values = __iter__ = __len__ = __getitem__ = get = _fail


class HostileError(Exception):
    """An exception that cannot be printed."""

    def __str__(self) -> str:
        raise RecursionError

    __repr__ = __str__


def _cycle() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["self"] = [cycle]
    return cycle


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def _chain() -> BaseException:
    error = ValueError("0")
    for number in range(3_000):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    return error


VALUES: dict[str, Callable[[], Any]] = {
    "raises": lambda: Hostile(ValueError),
    "memory": lambda: Hostile(MemoryError),
    "recursion": lambda: Hostile(RecursionError),
    "text": lambda: HostileText("x"),
    "mapping": lambda: HostileMapping(a=1),
    "cycle": _cycle,
    "deep": _deep,
    "huge": lambda: "x" * 20_000_000,
    "wide": lambda: dict.fromkeys(map(str, range(20_000)), 1),
    "nan": lambda: float("nan"),
    "number": lambda: 10**6_000,
    "bytes": lambda: b"\xff\x00",
    "surrogate": lambda: "\ud800",
    "keys": lambda: {(1, 2): 1, None: 2, b"x": 3},
    "class": lambda: type("X" * 100_000, (), {}),
    "exception": HostileError,
    "chain": _chain,
    "nothing": lambda: None,
}


def _operation(value: object) -> None:
    @operation
    def work(given: object) -> object:
        return given

    assert work(value) is value


def _operation_async(value: object) -> None:
    @operation
    async def work(given: object) -> object:
        return given

    assert asyncio.run(work(value)) is value


def _operation_items(value: object) -> None:
    @operation
    def work() -> Iterator[object]:
        yield value

    assert next(iter(work())) is value


def _operation_block(value: Any) -> None:
    with operation("block", input=value) as run:
        run.set_output(value)
        run.set_attributes({"a": value})
        run.set_attributes(value)


def _operation_error(value: object) -> None:
    error = value if isinstance(value, Exception) else ValueError(value)

    @operation
    def work() -> None:
        raise error

    with pytest.raises(Exception) as caught:
        work()
    assert caught.value is error


def _reward_decorator(value: object) -> None:
    @reward
    def judge() -> object:
        return value

    assert judge() is value


def _reward_or_error(value: Any) -> None:
    for given in (value, {"a": value}, {"a": 1.0, "b": value}):
        with contextlib.suppress(ValueError):
            emit_reward(given, primary_key="a" if isinstance(given, dict) else None)


EMITTERS: dict[str, Callable[[Any], object]] = {
    "message": emit_message,
    "object": emit_object,
    "exception": emit_exception,
    "reward": _reward_or_error,
    "reward_attributes": lambda value: emit_reward(1.0, attributes={"a": value}),
    "reward_decorator": _reward_decorator,
    "annotation": lambda value: emit_annotation({"a": value}),
    "annotation_itself": emit_annotation,
    "event": lambda value: emit_event(CustomEvent("hostile", {"a": value, "list": [value]})),
    "event_itself": emit_event,
    "event_data": lambda value: emit_event("test.hostile", value),
    "event_target": lambda value: emit_event(MessageEvent("x"), target=value),
    "event_message": lambda value: emit_event(MessageEvent(value)),
    "event_object": lambda value: emit_event(ObjectEvent(value)),
    "event_exception": lambda value: emit_event(ExceptionEvent(value)),
    "operation": _operation,
    "operation_async": _operation_async,
    "operation_items": _operation_items,
    "operation_block": _operation_block,
    "operation_error": _operation_error,
}


@pytest.mark.parametrize("emitter", EMITTERS)
def test_no_value_reaches_the_program(emitter: str) -> None:
    """Whatever an emitter is given, the program goes on with its own result, and no span is unaccounted for."""
    register_event_type("test.hostile", replace=True)
    for make in VALUES.values():
        EMITTERS[emitter](make())
    assert process.flush(15)
    account = process.account()
    assert account.produced == account.stored + account.duplicate + account.total_lost
    assert set(account.lost) <= {"rejected"}
    assert set(failures.counts()) <= {
        "emitter.message", "emitter.annotation", "emitter.event", "emitter.reward", "operation.start",
        "operation.output", "operation.attributes", "operation.exception", "operation.exception_text",
        "operation.signature", "event.validate",
    }  # fmt: skip


@pytest.mark.parametrize("place", ["validate", "span_attributes", "span_name", "span_status", "version", "keep"])
@pytest.mark.parametrize(
    "error", [ValueError(), MemoryError(), RecursionError()], ids=lambda error: type(error).__name__
)
def test_an_event_class_that_fails_is_counted(place: str, error: Exception) -> None:
    """An event of the program's whose own methods fail is dropped, with a receipt that says so, and counted once."""

    def fail(_: object) -> Any:
        raise error

    member = property(fail) if place in {"version", "keep"} else fail
    made = type("Mine", (CustomEvent,), {"event_type": "mine", place: member})
    outcome = emit_event(made()).wait(5)
    assert outcome.state == "dropped"
    assert outcome.reason in {"failed", "invalid"}
    process.flush(5)
    account = process.account()
    assert account.produced == account.total_lost == account.lost.get("rejected", 0)
    assert (failures.counts() == {"emitter.event": 1}) is (outcome.reason == "failed")
