"""Widths, escapes and folding of what goes to a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agentlightning.cli.document import dumps, stream
from agentlightning.cli.terminal import fit, folded, safe, safe_lines, wrapped


@given(st.text(), st.integers(2, 60))
def test_a_cell_has_its_width(text: str, columns: int) -> None:
    """Text is cut or padded to exactly its columns, wide and combining characters counted as terminals do."""
    assert cell_len(fit(safe(text), columns)) == columns


@given(st.text(st.characters(codec=None)))
def test_nothing_drives_the_terminal(text: str) -> None:
    """No control character, line separator, lone surrogate or direction mark gets through."""
    shown = safe(text)
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in shown)
    assert not {"\u2028", "\u202e", "\u2066", "\u200f"} & set(shown)
    shown.encode()


@given(st.text(), st.integers(20, 60))
def test_wrapped_lines_lose_nothing(text: str, columns: int) -> None:
    """The pieces of a line fit, and together are the line."""
    for line in safe_lines(text):
        pieces = wrapped(line, columns)
        assert "".join(pieces) == line
        assert all(cell_len(piece) <= columns for piece in pieces)


@pytest.mark.parametrize("mark", ["u", "µ"])
def test_words_stay_whole(mark: str) -> None:
    """A line is broken between words, with a character beyond ASCII too; only wide characters break anywhere."""
    line = f"took 12 {mark}s, then it waited for the store to answer"
    assert [piece.strip() for piece in wrapped(line, 24)] == [
        f"took 12 {mark}s, then it", "waited for the store to", "answer"
    ]  # fmt: skip
    assert wrapped("漢字" * 6, 20) == ["漢字" * 5, "漢字"]


def test_folding_needs_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is folded to a terminal or to COLUMNS; a pipe gets it whole."""
    monkeypatch.setenv("COLUMNS", "24")
    assert folded("a word and another word, then", "  ") == ["  a word and another", "  word, then"]
    monkeypatch.delenv("COLUMNS")
    assert folded("x " * 200, "  ") == ["  " + "x " * 200]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
    max_leaves=10,
)


@given(st.lists(VALUES))
def test_documents_are_json(values: list[object]) -> None:
    """Whatever a span holds, the document is valid ASCII JSON, written in one piece or as a stream."""
    import json

    def refuse(text: str) -> None:
        raise AssertionError(text)

    for text in (dumps(values), "".join(stream({"a": 1}, "items", values))):
        assert text.isascii()
        json.loads(text, parse_constant=refuse)
        text.encode().decode()
    assert len(json.loads("".join(stream({"a": 1}, "items", values)))["items"]) == len(values)
