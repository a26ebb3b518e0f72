"""A plain function on a thread of its own, awaited from an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Answer(NamedTuple):
    """What user code came to: a value, or what it raised."""

    value: object = None
    error: BaseException | None = None


async def run_in_thread(function: Callable[[], object]) -> Answer:
    """Call *function* in the caller's context on a daemon thread, and return its value or what it raised.

    A daemon thread and no pool: a function that never returns must not keep the process from ending, nor take the
    place of the next one. Cancelling the wait leaves the thread behind.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Answer] = loop.create_future()
    context = copy_context()

    def work() -> None:
        """Call the function in the caller's context and hand its answer to the event loop."""
        answer = context.run(_call, function)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set, future, answer)

    threading.Thread(target=work, name="agentlightning-agent", daemon=True).start()
    return await future


def _call(function: Callable[[], object]) -> Answer:
    try:
        return Answer(function())
    except BaseException as error:  # noqa: BLE001 - user code on a thread of ours; the runner records it
        return Answer(error=error)


def _set(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
