"""Widths, escapes and folding of what goes to a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agentlightning.cli.document import dumps, stream
from agentlightning.cli.terminal import fit, safe, safe_lines, wrapped


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
