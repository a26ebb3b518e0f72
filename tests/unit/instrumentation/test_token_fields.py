from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.instrumentation.openai_message import response_attributes
from agentlightning.instrumentation.openai_output import Output
from agentlightning.instrumentation.openai_token import TokenCollector, json_without_ids, without_token_fields

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    (
        "id", "object", "type", "model", "choices", "index", "message", "delta", "content", "text", "role", "usage",
        "logprobs", "token_logprobs", "logprob", "top_logprobs", "prompt_token_ids", "response_token_ids", "token_ids",
        "provider_specific_fields", "sglext", "input_ids", "output_ids", "tool_calls", "function", "name", "arguments",
        "finish_reason", "output", "response", "item", "output_index",
    )
)  # fmt: skip
ANSWERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["response.completed", "response", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=25,
)


def collect(*parts: object) -> dict[str, Any]:
    """Return the attributes of the parts of an answer."""
    collector = TokenCollector()
    for part in parts:
        collector.add(part)
    return collector.attributes()


def objects(value: object) -> Any:
    """Return plain data as objects with attributes, as a library's models are."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return SimpleNamespace(**{key: objects(inner) for key, inner in fields.items()})
    return [objects(inner) for inner in cast("list[object]", value)] if isinstance(value, list) else value


@given(st.lists(st.integers(0, 2**31), min_size=1), st.data())
def test_chunks_give_the_ids_of_the_whole(ids: list[int], data: st.DataObject) -> None:
    """However a stream cuts the ids of its choices, the joined ones are those of the whole answer."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=4)))
    pieces = [ids[start:end] for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    chunks: list[object] = [{"choices": [{"index": 1, "token_ids": piece, "delta": {}}]} for piece in pieces]
    assert collect(*chunks) == {f"{semconv.RESPONSE_TOKEN_IDS}.1": ids}


@given(ANSWERS)
def test_no_answer_raises(answer: object) -> None:
    """Whatever a server sends is read without an error, as dicts and as objects."""
    for form in (answer, objects(answer)):
        found = collect(form, form)
        for key, value in found.items():
            assert isinstance(value, list)
            assert key.startswith((semconv.PROMPT_TOKEN_IDS, semconv.RESPONSE_TOKEN_IDS, "logprobs", semconv.INVALID))
        output = Output()
        output.add(form)
        response_attributes(output.payload())
    without_token_fields(answer, logprobs=True)
    if isinstance(answer, dict):
        response_attributes(cast("dict[str, object]", answer))


@given(JSON)
def test_what_is_no_list_of_integers_is_named(value: object) -> None:
    """An array is taken as a whole or not at all."""
    found = collect({"choices": [{"index": 0, "token_ids": value}]})
    elements = cast("list[Any]", value) if isinstance(value, list) else [None]
    good = all(type(one) is int and -(2**63) <= one < 2**63 for one in elements)
    if value is None or value == []:
        assert found == {}
    elif good:
        assert found == {semconv.RESPONSE_TOKEN_IDS: value}
    else:
        assert found == {semconv.INVALID: [semconv.RESPONSE_TOKEN_IDS]}


def test_a_bad_chunk_spoils_the_array_and_not_the_others() -> None:
    """Ids that would no longer match the text are left out; those of the other choice stay."""
    found = collect(
        {"choices": [{"index": 0, "token_ids": [1]}, {"index": 1, "token_ids": [5]}]},
        {"choices": [{"index": 0, "token_ids": ["2"]}]},
        {"choices": [{"index": 0, "token_ids": [3]}]},
    )
    assert found == {f"{semconv.RESPONSE_TOKEN_IDS}.1": [5], semconv.INVALID: [semconv.RESPONSE_TOKEN_IDS]}


def test_a_batch_of_completions_has_a_prompt_for_each_choice_that_differs() -> None:
    """Choices with the prompt of the first one do not repeat it."""
    found = collect({"choices": [{"index": n, "prompt_token_ids": ids} for n, ids in enumerate(([1], [1], [2]))]})
    assert found == {semconv.PROMPT_TOKEN_IDS: [1], f"{semconv.PROMPT_TOKEN_IDS}.2": [2]}


def test_log_probabilities_are_floats_and_none_is_nan() -> None:
    """Echoed completions have no value for their first token."""
    found = collect({"choices": [{"index": 0, "logprobs": {"token_logprobs": [None, -1, -0.5]}}]})
    assert math.isnan(found[semconv.LOGPROBS][0])
    assert found[semconv.LOGPROBS][1:] == [-1.0, -0.5]


def test_a_response_has_its_log_probabilities_once() -> None:
    """The last event repeats what the deltas brought."""
    delta = {"type": "response.output_text.delta", "logprobs": [{"logprob": -1.0}]}
    whole = {"object": "response", "output": [{"content": [{"logprobs": [{"logprob": -1.0}, {"logprob": -2.0}]}]}]}
    assert collect(delta)[semconv.LOGPROBS] == [-1.0]
    assert collect(delta, {"type": "response.completed", "response": whole})[semconv.LOGPROBS] == [-1.0, -2.0]


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(['"token_ids":[1]', ',"token_ids": [1],']),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "b", 'c"token_ids":[2]', "choices"]), inner, max_size=4)
        ),
        max_leaves=10,
    ),
    st.dictionaries(st.sampled_from(["token_ids", "prompt_token_ids", "a", "z"]), st.lists(st.integers()), max_size=4),
    st.booleans(),
)
def test_json_loses_its_ids_and_stays_json(rest: object, fields: dict[str, list[int]], compact: bool) -> None:
    """Cutting ids out of the text leaves exactly the other fields, whatever the texts in it say."""
    answer: dict[str, object] = {**fields, "y": rest, "x": {**fields}, "n": [{**fields}]}
    kept = {key: value for key, value in fields.items() if "token_ids" not in key}
    text = json.dumps(answer, separators=(",", ":") if compact else None)
    assert json.loads(json_without_ids(text)) == {**kept, "y": rest, "x": kept, "n": [kept]}


def test_the_answers_json_loses_the_arrays_and_nothing_else() -> None:
    """A tool's argument may be called ``token_ids``; alternatives of tokens exist nowhere else and stay."""
    arguments = {"name": "f", "arguments": {"token_ids": [1]}}
    message = {"content": "hi", "tool_calls": [{"function": arguments}]}
    alternatives = {"content": [{"logprob": -1.0, "top_logprobs": [{"token": "a", "logprob": -1.0}]}]}
    payload: dict[str, Any] = {
        "prompt_token_ids": [1],
        "choices": [
            {"token_ids": [2], "logprobs": {"content": [{"logprob": -1.0, "top_logprobs": []}]}, "message": message},
            {"provider_specific_fields": {"token_ids": [3], "other": 4}, "logprobs": alternatives},
        ],
    }
    before = json.dumps(payload)
    assert without_token_fields(payload, logprobs=True) == {
        "choices": [{"message": message}, {"provider_specific_fields": {"other": 4}, "logprobs": alternatives}]
    }
    assert json.dumps(payload) == before
