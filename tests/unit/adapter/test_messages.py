"""Calls as chat messages, from what real libraries wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentlightning.adapter import TraceToMessages
from agentlightning.adapter.messages import convert_to_openai_messages, group_genai_dict
from agentlightning.types import Span

CORPUS = Path(__file__).parents[1] / "view/corpus"
ROLES = {"system", "developer", "user", "assistant", "tool"}


def recorded(name: str) -> list[Span]:
    """Return the spans of a recording."""
    spans: list[Span] = []
    for raw in json.loads((CORPUS / f"{name}.json").read_text("utf-8"))["spans"]:
        span = Span.from_attributes(
            attributes=raw["attributes"],
            rollout_id="ro",
            attempt_id="at",
            sequence_id=raw["number"],
            name=raw["name"],
            trace_id="1" * 32,
            span_id=f"{raw['number']:016x}",
            parent_id=None if raw["parent"] is None else f"{raw['parent']:016x}",
            start_time=raw["start_ns"] / 1e9,
            end_time=raw["end_ns"] / 1e9,
        )
        span.scope_name = raw["scope"]
        spans.append(span)
    return spans


def of(attributes: dict[str, Any], **given: Any) -> Span:
    """Return the span of a model call."""
    return Span.from_attributes(attributes={"openinference.span.kind": "LLM", **attributes}, **given)


@pytest.mark.parametrize("name", sorted(path.stem for path in CORPUS.glob("*.json")))
def test_every_library_gives_messages_that_a_trainer_takes(name: str) -> None:
    """Roles that OpenAI knows, an answer at the end, results of tools that name their call."""
    made = TraceToMessages().adapt(recorded(name))
    assert made
    for call in made:
        json.dumps(call)
        assert {message["role"] for message in call["messages"]} <= ROLES
        for message in call["messages"]:
            assert message["content"] is not None or message["tool_calls"]
            assert message["role"] != "tool" or message["tool_call_id"]
        for tool in call["tools"] or []:
            assert tool["type"] == "function"
            assert tool["function"]["name"]
            assert tool["function"]["parameters"]["type"] == "object"


@pytest.mark.parametrize("name", ["openinference_openai", "openllmetry_openai", "otel_openai_v2", "agentops_openai"])
def test_of_several_answers_it_is_the_first(name: str) -> None:
    """A call with n = 2 gives one conversation that ends with one answer."""
    answers = [call["messages"][-1] for call in TraceToMessages().adapt(recorded(name))]
    assert all(answer["role"] == "assistant" for answer in answers)
    assert "It is 21 degrees in Paris." in {answer["content"] for answer in answers}


def test_tools_on_spans_of_their_own_belong_to_the_answer() -> None:
    """The newer AgentOps writes a tool that the model asks for on a span below the call."""
    call = of({"gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": ""}, span_id="1" * 16,
              trace_id="1" * 32)  # fmt: skip
    asked: dict[str, Any] = {
        "tool.name": "add",
        "tool.call.id": "c1",
        "tool.call.type": "function",
        "tool.parameters": '{"a": 1}',
    }
    below = Span.from_attributes(attributes=asked, parent_id="1" * 16, trace_id="1" * 32, name="tool_call.add")
    expected = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    (made,) = TraceToMessages().adapt([call, below])
    assert made["messages"][-1] == {"role": "assistant", "content": None, "tool_calls": [expected]}
    assert list(TraceToMessages().get_tool_calls(call, [call, below])) == [expected]


def test_items_of_one_answer_are_put_together() -> None:
    """A provider that answers in items (a text, then a call of a tool) gives one message."""
    output = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "wait"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
    ]
    request = {"input": [{"role": "user", "content": "sum"}]}
    (made,) = TraceToMessages().adapt(
        [of({"input.value": json.dumps(request), "output.value": json.dumps({"output": output})})]
    )
    assert [message["role"] for message in made["messages"]] == ["user", "assistant"]
    assert made["messages"][1]["content"] == "wait"
    assert made["messages"][1]["tool_calls"][0]["function"]["name"] == "add"


def test_no_spans_and_no_messages_give_nothing() -> None:
    """A call whose content was not recorded is no conversation."""
    assert TraceToMessages().adapt([]) == []
    assert TraceToMessages().adapt([of({})]) == []


def test_flat_attributes_become_lists() -> None:
    """A list is made only of numbers without a gap."""
    data = {"p.0.role": "user", "p.1.role": "assistant", "p.1.tool_calls.0.id": "c", "other.0": 1}
    assert group_genai_dict(data, "p") == [{"role": "user"}, {"role": "assistant", "tool_calls": [{"id": "c"}]}]
    assert group_genai_dict({"p.1.role": "user"}, "p.") == {"1": {"role": "user"}}
    assert group_genai_dict(data, "absent") == {}


def test_messages_of_calls_that_were_taken_apart() -> None:
    """What the 0.2 line took apart is put together: prompt, answer, tools."""
    raw: Any = {
        "prompt": [{"role": "user", "content": "sum"}],
        "completion": [{"role": "assistant", "content": "3", "finish_reason": "stop"}],
        "request": {"functions": {"0": {"name": "add", "parameters": '{"type": "object"}'}}},
        "tools": [],
    }
    (made,) = convert_to_openai_messages([raw])
    assert made["messages"] == [{"role": "user", "content": "sum"}, {"role": "assistant", "content": "3"}]
    assert made["tools"] == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
