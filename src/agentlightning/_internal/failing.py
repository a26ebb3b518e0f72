"""What the program's own code raises: who is told of it, and what stands in for the answer that is missing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")
U = TypeVar("U")


def ask(question: Callable[[], T], otherwise: Callable[[Exception], U]) -> T | U:
    """Return what *question* finds out from an object of the program's, or what *otherwise* makes of its error.

    A ``__str__``, a ``__float__``, a property may raise any ``Exception``. KeyboardInterrupt and SystemExit go on.
    """
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - code of the program's classes raises what it likes
        return otherwise(error)


class Telling(AbstractContextManager[None]):
    """Block whose error, of any kind, is told to somebody before it goes on; use as ``with Telling(tell):``.

    What *tell* raises takes the place of the error, with the error as its context.
    """

    __slots__ = ("_tell",)

    def __init__(self, tell: Callable[[BaseException], object]) -> None:
        """Call *tell* with the error; without one it is never called."""
        self._tell = tell

    def __enter__(self) -> None:
        """Begin; nothing is set up."""

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Tell of the error, if there is one, and let it pass."""
        if exc is not None:
            self._tell(exc)
