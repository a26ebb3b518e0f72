"""Token ids and log-probabilities."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.view.tokens import ChoiceTokens, TokenIds, token_fields, token_ids

ROWS = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]


def test_attributes_of_all_choices() -> None:
    """Choice 0 has the plain names, choice N the suffix; ids and log-probabilities may come alone."""
    found = token_ids(
        {
            "prompt_token_ids": [1, 2],
            "response_token_ids": (3, 4),
            "logprobs.content": json.dumps(ROWS),
            "response_token_ids.2": [5],
            "logprobs.content.1": [-0.25, -0.5],
            "response_token_ids.x": [9],
        }
    )
    assert found == TokenIds(
        prompt=(1, 2),
        choices=(
            ChoiceTokens(index=0, ids=(3, 4), logprobs=(-0.5, -1.0), tokens=("a", "b")),
            ChoiceTokens(index=1, logprobs=(-0.25, -0.5)),
            ChoiceTokens(index=2, ids=(5,)),
        ),
    )


SHAPES: list[dict[str, Any]] = [
    {"prompt_token_ids": [1, 2], "choices": [{"index": 0, "token_ids": [3, 4]}]},
    {"prompt_token_ids": [1, 2], "choices": [{"provider_specific_fields": {"token_ids": [3, 4]}}]},
    {"prompt_token_ids": [1, 2], "response_token_ids": [[3, 4]], "choices": [{"provider_specific_fields": None}]},
    {"choices": [{"prompt_token_ids": [1, 2], "token_ids": [3, 4]}]},
    {"choices": [{"prompt_token_ids": [1, 2], "response_token_ids": [3, 4]}]},
    {"choices": [{}], "sglext": {"input_ids": [1, 2], "output_ids": [[3, 4]]}},
]


@pytest.mark.parametrize(
    "answer",
    SHAPES,
    ids=["vllm", "litellm", "old vllm", "completions of vllm", "sglang", "extension of sglang"],
)
def test_shapes_of_servers(answer: dict[str, Any]) -> None:
    """Old vLLM, new vLLM and LiteLLM put the ids in different places; an answer kept as JSON is read last."""
    expected = TokenIds(prompt=(1, 2), choices=(ChoiceTokens(index=0, ids=(3, 4)),))
    assert token_fields(answer) == expected
    assert token_ids({"output.value": json.dumps(answer)}) == expected


def test_a_batch_has_a_prompt_for_each_choice() -> None:
    """Completions of several prompts: a choice keeps its prompt where it is not that of the call."""
    choices = [
        {"index": n, "prompt_token_ids": [n], "token_ids": [9], "logprobs": {"token_logprobs": [-1]}} for n in (0, 1)
    ]
    expected = (
        ChoiceTokens(index=0, ids=(9,), logprobs=(-1.0,)),
        ChoiceTokens(index=1, ids=(9,), logprobs=(-1.0,), prompt=(1,)),
    )
    assert token_fields({"choices": choices}) == TokenIds(prompt=(0,), choices=expected)
    attributes = {
        "prompt_token_ids": [0],
        "prompt_token_ids.1": [1],
        "response_token_ids": [9],
        "response_token_ids.1": [9],
    }
    assert [choice.prompt for choice in token_ids(attributes).choices] == [None, (1,)]


def test_a_number_that_is_none_becomes_nan_and_is_said() -> None:
    """NaN and null log-probabilities keep their place, and the field is listed as a problem."""
    found = token_ids({"logprobs.content": '[{"token": "a", "logprob": NaN}, {"token": "b", "logprob": null}]'})
    assert found.choices[0].logprobs is not None
    assert all(math.isnan(number) for number in found.choices[0].logprobs)
    assert found.problems == ("logprobs.content",)


@pytest.mark.parametrize("value", ["x", 5, [1.5], ["1"], [True], [-1], [2**40], {"a": 1}, [[1], ["x"]]])
def test_ids_of_the_wrong_type_are_left_out_and_said(value: object) -> None:
    """A wrong array is no array, and never part of one: training on it would be silent."""
    found = token_ids({"prompt_token_ids": value, "response_token_ids": [1]})
    assert (found.prompt, found.choices, found.problems) == (
        None,
        (ChoiceTokens(index=0, ids=(1,)),),
        ("prompt_token_ids",),
    )


def test_nothing_known_is_false() -> None:
    """A span without ids says so; an empty list of ids is known."""
    assert not token_ids({"output.value": '{"choices": []}'})
    assert token_ids({"prompt_token_ids": []}).prompt == ()


@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt_token_ids", "response_token_ids", "response_token_ids.1", "logprobs.content", "output.value"]
        ),
        st.one_of(
            st.none(),
            st.text(st.characters()),
            st.floats(),
            st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))),
            st.sampled_from(['{"choices": [1, null, {"token_ids": {}, "logprobs": 3}], "token_ids": 1}', "[" * 9999]),
        ),
    )
)
def test_token_ids_never_raise(attributes: dict[str, Any]) -> None:
    """Whatever the attributes hold, only whole numbers come back as ids."""
    found = token_ids(attributes)
    for ids in (found.prompt, *(choice.ids for choice in found.choices)):
        assert ids is None or all(type(number) is int for number in ids)


def test_a_long_call_is_read_quickly() -> None:
    """32,000 tokens with log-probabilities are an ordinary call."""
    ids = list(range(32_000))
    rows = json.dumps([{"token": "x", "logprob": -0.1}] * 32_000)
    found = token_ids({"prompt_token_ids": ids, "response_token_ids": ids, "logprobs.content": rows})
    assert found.choices[0].logprobs is not None
    assert (found.prompt, len(found.choices[0].logprobs)) == (tuple(ids), 32_000)
