"""What stands in for the program's errors, and who is told of them."""

from __future__ import annotations

import pytest

from agentlightning._internal.failing import Telling, ask
from agentlightning._internal.guard import failures, tally


class _Broken:
    def __str__(self) -> str:
        msg = "no text"
        raise LookupError(msg)


class _Leaving:
    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_a_broken_class_gets_what_stands_in() -> None:
    """What an object cannot say is made of its error; what it can say is taken as it is."""
    assert ask(lambda: str(_Broken()), lambda error: type(error).__name__) == "LookupError"
    assert ask(lambda: str(3), lambda _: "none") == "3"


def test_an_interrupt_is_no_answer() -> None:
    """Ctrl+C in the middle of a question reaches the program."""
    with pytest.raises(KeyboardInterrupt):
        ask(lambda: str(_Leaving()), lambda _: "none")


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_is_told_and_goes_on(error: BaseException) -> None:
    """Whoever is told gets the very error, and so does the program."""
    told: list[BaseException] = []
    with pytest.raises(type(error)) as raised, Telling(told.append):
        raise error
    assert told == [error]
    assert raised.value is error


def test_nothing_is_told_of_what_went_well() -> None:
    """A block without an error tells nobody."""
    told: list[BaseException] = []
    with Telling(told.append):
        pass
    assert told == []


def test_a_tally_counts_and_is_never_loud() -> None:
    """Where failures have a way out they are counted, and not raised under test."""
    assert failures.loud
    before = failures.counts().get("test.tally", 0)
    with tally("test.tally"):
        raise ValueError
    assert failures.counts()["test.tally"] == before + 1
