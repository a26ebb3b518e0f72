"""The gate before the rules: where in a text, in lower case, does any of their gate words stand.

Three ways that give the same places: ``hyperscan`` when it is installed, ``pyahocorasick``, and for systems without a
wheel of it a search for each word. A text without a gate word is done after this one look.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

log = logging.getLogger("agentlightning.pipeline")

_PIECE = 2**16
"""Characters looked at in one call, which holds the interpreter until it returns: about 1 ms."""


class Gate(Protocol[T_co]):
    """Finds gate words."""

    name: str
    """Which engine it is."""

    def hits(self, lower: bytes) -> Iterator[tuple[int, T_co]]:
        """Yield for each gate word in *lower*, overlapping ones too, where it begins and what stands for it.

        Pieces come from front to back; within a piece the order is the engine's own.
        """
        ...


class AhoGate(Generic[T]):
    """One automaton over all words; the default."""

    name = "pyahocorasick"

    def __init__(self, words: Mapping[str, T]) -> None:
        """Build the automaton.

        Raises:
            ImportError: There is no wheel for this system.
        """
        import ahocorasick  # noqa: PLC0415 - loaded by the worker, when the first text is looked at

        self._automaton: Any = cast("Any", ahocorasick).Automaton()
        self._overlap = max(map(len, words), default=1) - 1
        for word, stands_for in words.items():
            self._automaton.add_word(word, (len(word), stands_for))
        self._automaton.make_automaton()

    def hits(self, lower: bytes) -> Iterator[tuple[int, T]]:
        """Yield the places of gate words, see ``Gate``."""
        for base, piece, first in _pieces(lower, self._overlap):
            for end, (length, stands_for) in self._automaton.iter(piece.decode("latin-1")):
                if end >= first:
                    yield base + end - length + 1, stands_for


class SearchGate(Generic[T]):
    """One search for each word: ten times as slow, and always there."""

    name = "search"

    def __init__(self, words: Mapping[str, T]) -> None:
        """Take the words."""
        self._words = [(word.encode("latin-1"), stands_for) for word, stands_for in words.items()]
        self._overlap = max(map(len, words), default=1) - 1

    def hits(self, lower: bytes) -> Iterator[tuple[int, T]]:
        """Yield the places of gate words, see ``Gate``."""
        for base, piece, first in _pieces(lower, self._overlap):
            for word, stands_for in self._words:
                place = piece.find(word, max(0, first - len(word) + 1))
                while place >= 0:
                    yield base + place, stands_for
                    place = piece.find(word, place + 1)


class HyperscanGate(Generic[T]):
    """The words as literals of Intel's Hyperscan; the fastest."""

    name = "hyperscan"

    def __init__(self, words: Mapping[str, T]) -> None:
        """Compile the words.

        Raises:
            ImportError: It is not installed.
        """
        hyperscan: Any = importlib.import_module("hyperscan")  # optional: taken when it is there
        names = list(words)
        self._values = [(len(word), words[word]) for word in names]
        self._overlap = max(map(len, words), default=1) - 1
        self._database: Any = hyperscan.Database()
        self._database.compile(
            expressions=[b"".join(b"\\x%02x" % code for code in word.encode("latin-1")) for word in names],
            ids=list(range(len(names))),
            elements=len(names),
            flags=[0] * len(names),
        )

    def hits(self, lower: bytes) -> Iterator[tuple[int, T]]:
        """Yield the places of gate words, see ``Gate``."""
        found: list[tuple[int, int]] = []

        def note(number: int, _start: int, end: int, _flags: int, _context: object) -> None:
            """Keep where a word ends, and its number; Hyperscan goes on, as this returns None."""
            found.append((end, number))

        for base, piece, first in _pieces(lower, self._overlap):
            found.clear()
            self._database.scan(piece, match_event_handler=note)
            for end, number in found:
                if end > first:
                    length, stands_for = self._values[number]
                    yield base + end - length, stands_for


def _pieces(lower: bytes, overlap: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield place and content of each piece, and the first place in it where a word may end that is new there."""
    if len(lower) <= _PIECE:
        yield 0, lower, 0
        return
    for start in range(0, len(lower), _PIECE):
        base = max(0, start - overlap)
        yield base, lower[base : start + _PIECE], start - base


_said: set[str] = set()


def make_gate(words: Mapping[str, T]) -> Gate[T]:
    """Return the fastest gate that this system has; what a slower one costs is said once in the log."""
    for maker in (HyperscanGate[T], AhoGate[T]):
        try:
            return maker(words)
        except ImportError:
            continue
    if "gate" not in _said:
        _said.add("gate")
        log.warning("redaction: pyahocorasick is not installed; the same values are found, ten times as slowly")
    return SearchGate(words)
