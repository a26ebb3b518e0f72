"""What real libraries wrote (``corpus/record.py``), read through the view."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentlightning.types.query import SpanFacts, SpanRow
from agentlightning.view.cost import price
from agentlightning.view.facts import facts
from agentlightning.view.messages import Conversation, Message, messages
from agentlightning.view.parts import MediaPart
from agentlightning.view.tokens import token_ids
from agentlightning.view.tree import RolloutView, build

CORPUS = Path(__file__).parent / "corpus"
NAMES = sorted(path.stem for path in CORPUS.glob("*.json"))


class Recorded(msgspec.Struct):
    """One recorded span."""

    number: int
    parent: int | None
    name: str
    scope: str
    start_ns: int
    end_ns: int
    status: str
    attributes: dict[str, Any]

    @property
    def facts(self) -> SpanFacts:
        """Its facts."""
        return facts(self.name, self.attributes, scope=self.scope)


class Recording(msgspec.Struct):
    """One file."""

    recorded_with: dict[str, str]
    spans: list[Recorded]


@lru_cache
def load(name: str) -> Recording:
    """Read a recording."""
    return msgspec.json.decode((CORPUS / f"{name}.json").read_bytes(), type=Recording)


def span(name: str, number: int) -> Recorded:
    """Return one span of a recording."""
    return next(item for item in load(name).spans if item.number == number)


def tree(name: str) -> RolloutView:
    """Return the tree of a recording."""
    rows = [
        SpanRow(
            trace_id="t",
            span_id=str(item.number),
            parent_id=None if item.parent is None else str(item.parent),
            rollout_id="r",
            attempt_id="a",
            sequence_id=item.number,
            name=item.name,
            start_ns=item.start_ns,
            end_ns=item.end_ns,
            status_code=item.status,
            status_description=None,
            process="p",
            facts=item.facts,
        )
        for item in load(name).spans
    ]
    return build(rows, price=price)


KINDS = {
    "agentops_openai": "agent chain llm span llm llm llm embedding tool reward",
    "agentops_openai_0_4_13": "agent chain llm llm llm llm llm embedding tool reward",
    "agentops_openai_0_4_16": "agent chain llm llm llm llm embedding tool reward",
    "agentops_openai_0_4_18": "agent chain llm span llm llm llm embedding tool reward",
    "openinference_anthropic": "llm llm llm llm",
    "openinference_langchain": "chain chain llm chain tool chain llm",
    "openinference_litellm": "llm llm",
    "openinference_openai": "llm llm llm llm llm embedding",
    "openinference_openai_agents": "agent chain agent chain llm llm tool chain llm llm",
    "openinference_smolagents": "agent chain llm tool chain llm tool",
    "openllmetry_anthropic": "llm llm llm llm",
    "openllmetry_openai": "llm llm llm llm llm embedding",
    "otel_openai_v2": "llm llm llm llm embedding",
    "pydantic_ai": "agent llm tool llm",
}


def test_every_recording_is_read() -> None:
    """No recording lies unused, and each says what made it."""
    assert sorted(KINDS) == NAMES
    assert all(load(name).recorded_with for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_kinds(name: str) -> None:
    """Each span has the kind that it is."""
    assert [item.facts.kind for item in load(name).spans] == KINDS[name].split()


CALLS = {
    "agentops_openai": (4, 1),
    "agentops_openai_0_4_13": (5, 1),
    "agentops_openai_0_4_16": (4, 1),
    "agentops_openai_0_4_18": (4, 1),
    "openinference_anthropic": (2, 0),
    "openinference_langchain": (2, 0),
    "openinference_litellm": (2, 0),
    "openinference_openai": (5, 1),
    "openinference_openai_agents": (2, 0),
    "openinference_smolagents": (2, 0),
    "openllmetry_anthropic": (2, 0),
    "openllmetry_openai": (5, 1),
    "otel_openai_v2": (4, 1),
    "pydantic_ai": (2, 0),
}


WITHOUT_USAGE = {"agentops_openai_0_4_13": 1}
"""Calls whose tokens are not known: this release asks for none in a stream."""


@pytest.mark.parametrize("name", NAMES)
def test_each_call_counts_once(name: str) -> None:
    """The stub was asked so many times: spans of two libraries over one call, and sums on agents, change nothing."""
    totals = tree(name).totals
    assert (totals.llm_calls, totals.embedding_calls) == CALLS[name]
    prompt = 55 if "anthropic" in name else 50
    silent = WITHOUT_USAGE.get(name, 0)
    counted = totals.llm_calls - silent
    assert totals.input_tokens == counted * prompt + totals.embedding_calls * 6
    assert totals.output_tokens == counted * 12
    assert (totals.inconsistent, totals.calls_without_usage) == (0, silent)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "openinference_litellm"])
def test_each_call_has_a_price(name: str) -> None:
    """Model and provider are found in every dialect, and where the cache is reported it is billed as cache."""
    found = tree(name)
    assert found.totals.cost_unknown == WITHOUT_USAGE.get(name, 0)
    for node in found.walk():
        if node.counted and node.row and node.row.facts.kind == "llm" and node.row.facts.fresh_tokens is not None:
            assert node.price is not None
            rates = {
                "openai": {"50": "0.0000147", "30": "0.0000132"},
                "anthropic": {"30": "0.00029475"},
            }
            expected = rates[node.row.facts.provider or "openai"][str(node.row.facts.fresh_tokens)]
            assert node.price.usd == Decimal(expected)


def test_litellm_names_no_model() -> None:
    """OpenInference's LiteLLM part writes no model: the cost is unknown and LiteLLM's own stays beside it."""
    found = tree("openinference_litellm").totals
    assert (found.cost, found.cost_unknown, round(found.reported_cost, 9)) == (0, 2, 0.0000264)


WITH_TOOL = [
    ("openinference_openai", 1),
    ("openinference_openai", 5),
    ("openinference_anthropic", 1),
    ("openinference_langchain", 3),
    ("openinference_litellm", 1),
    ("openinference_openai_agents", 6),
    ("openinference_smolagents", 3),
    ("openllmetry_openai", 1),
    ("openllmetry_openai", 5),
    ("openllmetry_anthropic", 1),
    ("otel_openai_v2", 1),
    ("agentops_openai", 3),
    ("agentops_openai_0_4_13", 3),
    ("agentops_openai_0_4_13", 7),
    ("agentops_openai_0_4_16", 3),
    ("agentops_openai_0_4_18", 3),
    ("pydantic_ai", 2),
]


@pytest.mark.parametrize(("name", "number"), WITH_TOOL)
def test_a_tool_that_the_model_asked_for(name: str, number: int) -> None:
    """Name and arguments of a tool call, the question, and the tools that were offered, in every dialect."""
    children = [item.attributes for item in load(name).spans if item.parent == number]
    found = messages(span(name, number).attributes, children=children)
    calls = [call for message in found.output for call in message.tool_calls]
    assert [call.name for call in calls] == ["get_weather"]
    assert msgspec.json.decode(calls[0].arguments) == {"city": "Paris"}
    assert calls[0].id
    if name != "openinference_litellm":  # it recorded no input
        assert "Weather in Paris?" in found.input[-1].text
    if name != "otel_openai_v2":  # it recorded no tools
        assert found.tools[0].name == "get_weather"
        assert msgspec.json.decode(found.tools[0].parameters)["required"] == ["city"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("openinference_openai", 2),
        ("agentops_openai", 5),
        ("agentops_openai_0_4_16", 4),
        ("otel_openai_v2", 2),
        ("openinference_anthropic", 3),
    ],
)
def test_a_tool_result_on_its_way_back(name: str, number: int) -> None:
    """The result of the tool follows the call that asked for it."""
    found = messages(span(name, number).attributes)
    asked, answered = found.input[-2:]
    (result,) = answered.parts
    assert (asked.role, answered.role, msgspec.structs.asdict(result)["text"]) == ("assistant", "tool", "21 C")
    assert msgspec.structs.asdict(result)["call_id"] == asked.tool_calls[0].id
    assert found.output[0].text == "It is 21 degrees in Paris."
    assert found.system == "Be brief."


@pytest.mark.parametrize(("name", "number"), [("openinference_openai", 2), ("agentops_openai", 5)])
def test_an_image(name: str, number: int) -> None:
    """An image inside a message is a reference with its type and size."""
    image = messages(span(name, number).attributes).input[1].parts[1]
    assert isinstance(image, MediaPart)
    assert (image.kind, image.mime, image.size_bytes) == ("image", "image/png", 70)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("openinference_openai", 5),
        ("openllmetry_openai", 5),
        ("openinference_anthropic", 1),
        ("openllmetry_anthropic", 1),
    ],
)
def test_thoughts(name: str, number: int) -> None:
    """What the model thought is told from what it said."""
    found = messages(span(name, number).attributes)
    assert [message.reasoning for message in found.output if message.reasoning] == ["Look at a map."]
    assert not any("map" in message.text for message in found.output)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("openinference_openai", 4),
        ("openllmetry_openai", 4),
        ("otel_openai_v2", 4),
        ("agentops_openai", 7),
        ("agentops_openai_0_4_13", 6),
        ("agentops_openai_0_4_16", 6),
    ],
)
def test_both_choices(name: str, number: int) -> None:
    """A call with n = 2 has two answers."""
    assert [message.text for message in messages(span(name, number).attributes).output] == [
        "It is 21 degrees in Paris."
    ] * 2


def test_token_ids_in_the_raw_answer() -> None:
    """OpenInference keeps vLLM's ids in the answer, streamed or not, for all choices."""
    streamed, plain = (token_ids(span("openinference_openai", number).attributes) for number in (3, 4))
    assert (streamed.prompt, streamed.choices[0].ids) == ((1, 2, 3, 4), (7, 8, 9))
    assert [choice.ids for choice in plain.choices] == [(7, 8, 9), (7, 8, 10)]
    assert [choice.logprobs for choice in plain.choices] == [(-0.25,), (-0.25,)]


def test_an_agent_span_of_pydantic_ai_has_its_conversation() -> None:
    """All messages of a run are on the span of the agent, with the instructions first."""
    found = messages(span("pydantic_ai", 1).attributes)
    assert [message.role for message in found.input] == ["system", "user", "assistant", "user", "assistant"]


def test_spans_that_are_no_calls_have_no_conversation() -> None:
    """Nothing is invented for a span of the client that carries no content."""
    assert messages(span("openllmetry_anthropic", 2).attributes) == Conversation()
    assert messages(span("agentops_openai", 8).attributes).input == (
        Message("user", messages({"gen_ai.prompt.0.content": "Paris"}).input[0].parts),
    )


def test_the_reward_of_agentops() -> None:
    """A task that returns a reward, through the real SDK, is a reward."""
    for name in NAMES:
        if name.startswith("agentops"):
            assert load(name).spans[-1].facts.reward == 0.75, name
