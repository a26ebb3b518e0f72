from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.testing.embedding import vector_of
from agentlightning.testing.request import read_request
from agentlightning.testing.tokenizer import logprob, pieces, token_ids

ANY_TEXT = st.text(st.characters(), max_size=200)  # lone surrogates included


@given(ANY_TEXT)
def test_pieces_are_the_text_again(text: str) -> None:
    """Nothing of a text is lost or changed when it is cut into tokens."""
    assert "".join(pieces(text)) == text


@given(ANY_TEXT)
def test_each_piece_has_an_id_in_range(text: str) -> None:
    """Ids are numbers of a small vocabulary, one for each piece, and log-probabilities are never above 0."""
    ids = token_ids(text)
    assert len(ids) == len(pieces(text))
    assert all(0 <= value < 50_000 for value in ids)
    assert all(-3 < logprob(piece) <= 0 for piece in pieces(text))


def test_ids_are_the_same_on_every_machine() -> None:
    """The ids of a text are fixed numbers, so that a test may quote them."""
    assert token_ids("hello big world") == [10870, 47033, 47707]


@given(ANY_TEXT, ANY_TEXT)
def test_prompt_of_a_later_turn_begins_with_the_earlier_turn(question: str, answer: str) -> None:
    """The prompt of turn two is the prompt of turn one, the answer, and more: there is no drift by itself."""
    messages: list[dict[str, str]] = [{"role": "user", "content": question}]
    first = read_request("chat", json.loads(json.dumps({"model": "m", "messages": messages})), 1).prompt_pieces
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "and then?"}]
    second = read_request("chat", json.loads(json.dumps({"model": "m", "messages": messages})), 2).prompt_pieces
    begin = [*first, *pieces(answer)]
    assert second[: len(begin)] == begin


@given(ANY_TEXT, st.integers(1, 64))
def test_embedding_is_a_unit_vector_of_its_text(text: str, dimensions: int) -> None:
    """An embedding has length 1 and depends on the text alone."""
    vector = vector_of(text, dimensions)
    assert vector == vector_of(text, dimensions)
    assert abs(sum(value * value for value in vector) - 1) < 1e-9


def test_a_huge_text_is_cut_into_blocks() -> None:
    """A text of many megabytes is still cut without loss, into few pieces."""
    text = "word and " * 200_000
    cut = pieces(text)
    assert "".join(cut) == text
    assert len(cut) < 1000
