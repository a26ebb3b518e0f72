from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentlightning.testing import AgentRule, ChatRequest, Reply, ToolCall, echo
from agentlightning.testing.request import BadRequestError, read_request
from agentlightning.testing.rule import sample

if TYPE_CHECKING:
    from agentlightning.testing.json_value import Json, JsonObject


def _tool(name: str, **properties: Json) -> JsonObject:
    schema: JsonObject = {"type": "object", "properties": properties, "required": [*properties]}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": schema}}


def _request(*messages: JsonObject, tools: tuple[JsonObject, ...] = ()) -> ChatRequest:
    return read_request("chat", {"model": "m", "messages": [*messages], "tools": [*tools]}, 1)


def _assistant(call: ToolCall) -> JsonObject:
    function: JsonObject = {"name": call.name, "arguments": call.arguments_text}
    return {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


NUMBER: JsonObject = {"type": "number"}
ADD = _tool("add", a=NUMBER, b=NUMBER)
TASK: JsonObject = {"role": "user", "content": "Please look up() and add(1, b=2)"}


def test_echo_gives_the_last_text() -> None:
    """The echo rule answers with what was said last."""
    assert echo(_request({"role": "user", "content": "hi"})) == Reply("hi")


def test_agent_rule_calls_the_tools_named_in_the_task_in_its_order() -> None:
    """Without a plan, the tools that the task names are called with the arguments written there, then it answers."""
    rule, tools = AgentRule(), (ADD, _tool("up", where={"type": "string"}), _tool("unused"))
    first = rule(_request(TASK, tools=tools)).tool_calls[0]
    assert first == ToolCall("up", {})
    second = rule(_request(TASK, _assistant(first), {"role": "tool", "content": "sky"}, tools=tools)).tool_calls[0]
    assert second == ToolCall("add", {"a": 1, "b": 2})
    sky: JsonObject = {"role": "tool", "content": "sky"}
    last = _request(TASK, _assistant(first), sky, _assistant(second), {"role": "tool", "content": "3"}, tools=tools)
    assert rule(last) == Reply("3")


def test_agent_rule_invents_arguments_that_fit_the_schema() -> None:
    """Where the task names only the tool, required properties get the plainest value of their type."""
    request = _request({"role": "user", "content": "use add now"}, tools=(ADD,))
    assert AgentRule()(request).tool_calls == (ToolCall("add", {"a": 1.5, "b": 1.5}),)


def test_plan_serves_several_agents() -> None:
    """Only those calls of a plan are made that the request offers, and the given answer ends it."""
    rule = AgentRule(plan=(ToolCall("other"), ToolCall("add", {"a": 1, "b": 1})), answer="done")
    call = rule(_request(TASK, tools=(ADD,))).tool_calls[0]
    assert call.name == "add"
    assert rule(_request(TASK, _assistant(call), {"role": "tool", "content": "2"}, tools=(ADD,))).text == "done"
    assert rule(_request(TASK)).text == "done"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["b", "a"]}, "b"),
        ({"type": "integer"}, 1),
        ({"type": "boolean"}, True),
        ({"type": "array"}, []),
        ({}, "text"),
        ({"properties": {"a": {"type": "string"}, "b": {"type": "null"}}}, {"a": "text", "b": None}),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": []}, {}),
    ],
)
def test_sample_fits_a_schema(schema: JsonObject, value: Json) -> None:
    """A sample has the type that the schema asks for and no more than the required properties."""
    assert sample(schema) == value


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": 1, "messages": [{"role": "user", "content": "x"}]},
        {"model": "m"},
        {"model": "m", "messages": []},
        {"model": "m", "messages": ["text"]},
    ],
)
def test_a_request_without_model_or_conversation_is_refused(body: JsonObject) -> None:
    """What no model could answer is an error that names the field."""
    with pytest.raises(BadRequestError, match=r"'model'|'messages'"):
        read_request("chat", body, 1)


def test_strange_fields_are_read_as_far_as_they_go() -> None:
    """Fields of a wrong type count as absent; parts of a message that are no text leave their type."""
    body: JsonObject = {
        "model": "m",
        "n": -3,
        "stream": "yes",
        "tools": [None, {"function": 7}],
        "messages": [{"role": 5, "content": [{"type": "image_url"}, {"type": "text", "text": "what is it?"}, 8]}],
    }
    request = read_request("chat", body, 1)
    assert (request.choice_count, request.stream, request.tool_names) == (1, False, ("", ""))
    assert request.messages[0].text == "[image_url]\nwhat is it?\n[]"


def test_input_items_of_a_response_become_messages() -> None:
    """Instructions, a call and its output of the responses API read like those of chat completions."""
    body: JsonObject = {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "4"},
        ],
        "tools": [{"type": "function", "name": "add", "parameters": {}}],
    }
    request = read_request("responses", body, 1)
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.messages[2].tool_calls == (ToolCall("add", "{}", "c1"),)
    assert request.messages[3].tool_call_id == "c1"
    assert request.tool_names == ("add",)
