"""What a call on another thread came to, and the thread that makes one for an event loop."""

from __future__ import annotations

import contextlib
import threading
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a call came to: a value, or what it raised."""

    value: T | None = None
    error: BaseException | None = None

    def get(self) -> T:
        """Return the value, or raise what the call raised."""
        if self.error is not None:
            raise self.error
        return cast("T", self.value)


def answer_of(function: Callable[[], T]) -> Answer[T]:
    """Call *function* and return its value or what it raised, ``SystemExit`` and ``KeyboardInterrupt`` included."""
    try:
        return Answer(function())
    except BaseException as error:  # noqa: BLE001 - other people's code on a thread of ours: whoever waits decides
        return Answer(error=error)


async def run_in_thread(function: Callable[[], T], name: str) -> Answer[T]:
    """Call *function* in the caller's context on a daemon thread called *name*, and return what it came to.

    A daemon thread and no pool: a function that never returns must not keep the process from ending, nor take the
    place of the next one. Cancelling the wait leaves the thread behind.
    """
    from asyncio import get_running_loop  # noqa: PLC0415 - 20 ms; whoever has a loop has loaded it

    loop = get_running_loop()
    future: Future[Answer[T]] = loop.create_future()
    context = copy_context()

    def work() -> None:
        """Call the function in the caller's context and hand its answer to the event loop."""
        answer = context.run(answer_of, function)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set, future, answer)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await future


def _set(future: Future[Answer[T]], answer: Answer[T]) -> None:
    if not future.done():
        future.set_result(answer)
