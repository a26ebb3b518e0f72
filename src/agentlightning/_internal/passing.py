"""A generator that is passed on to its reader unchanged, with somebody beside it who sees each step.

Whatever the reader does reaches the original: what is sent and thrown in, and how it is closed; whatever the original
does reaches the reader: items, result and exceptions, the same objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from agentlightning._internal.guard import guard

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager


class Beside(Protocol):
    """Who sees the steps of a generator; used by one thread at a time. Raises nothing."""

    def start(self) -> None:
        """Begin: the reader asks for the first item. A generator that nobody reads does not begin."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Return a block for one step of the original: never held across a ``yield``."""
        ...

    def note_item(self, item: object) -> None:
        """Take in an item; what this raises is counted and goes no further."""
        ...

    def returned(self) -> None:
        """End: the original has returned."""
        ...

    def raised(self, error: BaseException) -> None:
        """End: the original has raised *error*."""
        ...

    def close_early(self) -> None:
        """End: the reader has left."""
        ...


def pass_on(source: Iterator[object], beside: Beside) -> Generator[object, object, object]:
    """Yield what *source* yields and return what it returns, with *beside* told of each step."""
    original = cast("Generator[object, object, object]", source)
    sent: object = None
    thrown: BaseException | None = None
    beside.start()
    while True:
        try:
            with beside.current():
                item = _advance(original, sent, thrown)
        except StopIteration as stop:
            beside.returned()
            return stop.value
        except BaseException as error:
            beside.raised(error)
            raise
        with guard("operation.item"):
            beside.note_item(item)
        sent = thrown = None
        try:
            sent = yield item
        except GeneratorExit:
            break
        except BaseException as error:  # noqa: BLE001 - thrown in by the reader, handed to the original
            thrown = error
    # Outside the except block: what the original raises now gets no context that it would not have without us.
    try:
        with beside.current():
            close = getattr(original, "close", None)
            if close is not None:
                close()
    finally:
        beside.close_early()
    return None


def _advance(source: Generator[object, object, object], sent: object, thrown: BaseException | None) -> object:
    """Take the next item the way the reader asked for it."""
    if thrown is not None:
        return source.throw(thrown)
    return next(source) if sent is None else source.send(sent)
