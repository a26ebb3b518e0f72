"""Conversations from every dialect, and from garbage."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.view.messages import Conversation, Message, ToolDefinition, messages, read_messages
from agentlightning.view.parts import (
    MediaPart,
    OtherPart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    parts,
)

CALL = ToolCallPart("c1", "add", '{"a": 1}')
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = ToolDefinition("add", "Adds.", json.dumps(SCHEMA))
EXPECTED_INPUT = (
    Message("system", (TextPart("Be brief."),)),
    Message("user", (TextPart("1+1?"), MediaPart("image", "image/png", "https://x/y.png"))),
    Message("assistant", (CALL,)),
    Message("tool", (ToolResultPart("c1", "2"),)),
)
EXPECTED_OUTPUT = (Message("assistant", (ReasoningPart("Easy."), TextPart("Two."))),)

OPENAI_MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "1+1?"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "2"},
]
OPENAI_TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}}

OTEL: dict[str, Any] = {
    "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
    "gen_ai.input.messages": json.dumps(
        [
            {
                "role": "user",
                "parts": [
                    {"type": "text", "content": "1+1?"},
                    {"type": "uri", "modality": "image", "mime_type": "image/png", "uri": "https://x/y.png"},
                ],
            },
            {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "add", "arguments": {"a": 1}}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "2"}]},
        ]
    ),
    "gen_ai.output.messages": json.dumps(
        [
            {
                "role": "assistant",
                "parts": [{"type": "reasoning", "content": "Easy."}, {"type": "text", "content": "Two."}],
            }
        ]
    ),
    "gen_ai.tool.definitions": json.dumps(
        [{"type": "function", "name": "add", "description": "Adds.", "parameters": SCHEMA}]
    ),
}
OPENINFERENCE: dict[str, Any] = {
    "llm.input_messages.0.message.role": "system",
    "llm.input_messages.0.message.content": "Be brief.",
    "llm.input_messages.1.message.role": "user",
    "llm.input_messages.1.message.contents.0.message_content.type": "text",
    "llm.input_messages.1.message.contents.0.message_content.text": "1+1?",
    "llm.input_messages.1.message.contents.1.message_content.type": "image",
    "llm.input_messages.1.message.contents.1.message_content.image.image.url": "https://x/y.png",
    "llm.input_messages.2.message.role": "assistant",
    "llm.input_messages.2.message.tool_calls.0.tool_call.id": "c1",
    "llm.input_messages.2.message.tool_calls.0.tool_call.function.name": "add",
    "llm.input_messages.2.message.tool_calls.0.tool_call.function.arguments": '{"a": 1}',
    "llm.input_messages.3.message.role": "tool",
    "llm.input_messages.3.message.tool_call_id": "c1",
    "llm.input_messages.3.message.content": "2",
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.contents.0.message_content.type": "reasoning",
    "llm.output_messages.0.message.contents.0.message_content.text": "Easy.",
    "llm.output_messages.0.message.contents.1.message_content.type": "text",
    "llm.output_messages.0.message.contents.1.message_content.text": "Two.",
    "llm.tools.0.tool.json_schema": json.dumps(OPENAI_TOOL),
}
FLATTENED: dict[str, Any] = {
    "gen_ai.prompt.0.role": "system",
    "gen_ai.prompt.0.content": "Be brief.",
    "gen_ai.prompt.1.role": "user",
    "gen_ai.prompt.1.content": json.dumps(OPENAI_MESSAGES[1]["content"]),
    "gen_ai.prompt.2.role": "assistant",
    "gen_ai.prompt.2.tool_calls.0.id": "c1",
    "gen_ai.prompt.2.tool_calls.0.name": "add",
    "gen_ai.prompt.2.tool_calls.0.arguments": '{"a": 1}',
    "gen_ai.prompt.3.role": "tool",
    "gen_ai.prompt.3.content": "2",
    "gen_ai.prompt.3.tool_call_id": "c1",
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.reasoning": "Easy.",
    "gen_ai.completion.0.content": "Two.",
    "gen_ai.request.functions.0.name": "add",
    "gen_ai.request.functions.0.description": "Adds.",
    "gen_ai.request.functions.0.parameters": json.dumps(SCHEMA),
}
RAW: dict[str, Any] = {
    "input.value": json.dumps({"model": "m", "messages": OPENAI_MESSAGES, "tools": [OPENAI_TOOL]}),
    "output.value": json.dumps(
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Two.", "reasoning_content": "Easy."}}]}
    ),
}
ANTHROPIC: dict[str, Any] = {
    "input.value": json.dumps(
        {
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "1+1?"},
                        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                    ],
                },
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]},
                {
                    "role": "tool",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "2"}]}
                    ],
                },
            ],
            "tools": [{"name": "add", "description": "Adds.", "input_schema": SCHEMA}],
        }
    ),
    "output.value": json.dumps(
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Easy."}, {"type": "text", "text": "Two."}]}
    ),
}
RESPONSES: dict[str, Any] = {
    "input.value": json.dumps(
        {
            "instructions": "Be brief.",
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "1+1?"},
                        {"type": "input_image", "image_url": "https://x/y.png"},
                    ],
                },
                {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
                {"type": "function_call_output", "call_id": "c1", "output": "2"},
            ],
            "tools": [{"type": "function", "name": "add", "description": "Adds.", "parameters": SCHEMA}],
        }
    )
}


@pytest.mark.parametrize(
    ("attributes", "dialect"),
    [
        (OTEL, "otel"),
        (OPENINFERENCE, "openinference"),
        (FLATTENED, "openllmetry"),
        (RAW, "value"),
        (ANTHROPIC, "value"),
        (RESPONSES, "value"),
    ],
    ids=["otel", "openinference", "flattened", "openai request", "anthropic request", "responses request"],
)
def test_one_conversation_in_every_dialect(attributes: dict[str, Any], dialect: str) -> None:
    """The same exchange, whoever wrote it down, is the same conversation."""
    found = messages(attributes)
    assert found.input == EXPECTED_INPUT
    assert found.tools == (TOOL,)
    assert (found.system, found.input_dialect) == ("Be brief.", dialect)
    if attributes is not RESPONSES:
        assert found.output == EXPECTED_OUTPUT
        assert (found.output[0].text, found.output[0].reasoning, found.output_dialect) == ("Two.", "Easy.", dialect)


def test_a_cut_prompt_is_read_from_the_raw_request() -> None:
    """A span limit drops the oldest attributes: where the first messages are gone, the request as JSON is better."""
    cut = {key: value for key, value in OPENINFERENCE.items() if not key.startswith("llm.input_messages.0")}
    assert messages(cut | RAW).input == EXPECTED_INPUT
    assert messages(cut).input == EXPECTED_INPUT[1:]


def test_answers_of_the_responses_api() -> None:
    """Reasoning and tool calls are items of their own."""
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Easy."}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two."}]},
    ]
    found = messages({"output.value": json.dumps({"output": items})}).output
    assert [message.parts for message in found] == [(ReasoningPart("Easy."),), (CALL,), (TextPart("Two."),)]


def test_all_choices_are_outputs() -> None:
    """Each choice is a message with its finish reason."""
    choices = [{"message": {"role": "assistant", "content": str(n)}, "finish_reason": "stop"} for n in range(2)]
    found = messages({"output.value": json.dumps({"choices": choices})}).output
    assert [(message.text, message.finish_reason) for message in found] == [("0", "stop"), ("1", "stop")]


def test_completions_have_texts() -> None:
    """The completions API: texts in, texts out, from attributes or from the raw answer."""
    found = messages({"llm.prompts.0.prompt.text": "One", "llm.choices.0.completion.text": "two"})
    assert (found.input[0].text, found.output[0].text) == ("One", "two")
    found = messages({"input.value": '{"prompt": "One"}', "output.value": '{"choices": [{"text": "two"}]}'})
    assert (found.input[0].text, found.output[0].text) == ("One", "two")


def test_agentops_writes_tool_calls_below_the_call() -> None:
    """The tool that AgentOps notes on a child span is part of the answer."""
    child = {"tool.name": "add", "tool.parameters": '{"a": 1}', "tool.call.id": "c1", "tool.call.type": "function"}
    attributes = {"gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.finish_reason": "tool_calls"}
    found = messages(attributes, children=[{"http.method": "POST"}, child, {"tool.name": "run", "tool.call.id": "c1"}])
    assert found.output[0].tool_calls == [CALL]
    assert messages(attributes, children=[{}]).output[0].tool_calls == []


def test_anthropic_calls_are_not_doubled() -> None:
    """OpenInference writes one of Anthropic's tool calls in the content and beside it."""
    attributes: dict[str, Any] = {"llm.output_messages.0.message.role": "assistant"}
    for place in ("contents.0", "tool_calls.0"):
        head = f"llm.output_messages.0.message.{place}.tool_call."
        attributes |= {head + "id": "c1", head + "function.name": "add", head + "function.arguments": '{"a": 1}'}
    attributes["llm.output_messages.0.message.contents.0.message_content.type"] = "tool_use"
    assert messages(attributes).output[0].parts == (CALL,)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}, ("image", "image/png", 3)),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "QUI="}},
            ("image", "image/jpeg", 2),
        ),
        ({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}, ("audio", "audio/wav", 3)),
        ({"type": "blob", "mime_type": "image/gif", "modality": "image", "content": "QQ=="}, ("image", "image/gif", 1)),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
            ("file", "application/pdf", 3),
        ),
        (
            {"type": "file", "modality": "video", "file_id": "f1", "mime_type": "video/mp4"},
            ("video", "video/mp4", None),
        ),
        ({"type": "input_file", "file_id": "f1"}, ("file", "", None)),
        ({"type": "image_url", "image_url": {"url": "https://x/y.jpg"}}, ("image", "image/jpeg", None)),
        ({"inline_data": {"mime_type": "audio/ogg", "data": "QUJD"}}, ("audio", "audio/ogg", 3)),
        (
            {"message_content": {"type": "audio", "audio": {"audio": {"url": "https://x/y.mp3"}}}},
            ("audio", "audio/mpeg", None),
        ),
    ],
)
def test_media_are_references_with_type_and_size(raw: dict[str, Any], expected: tuple[str, str, int | None]) -> None:
    """Images, sounds, videos and files of every provider: what it is, its type, its size where it is inside."""
    (found,) = parts([raw])
    assert isinstance(found, MediaPart)
    assert (found.kind, found.mime, found.size_bytes) == expected


def test_a_part_of_an_unknown_type_is_kept() -> None:
    """What the view does not know stays visible."""
    assert parts([{"type": "hologram", "x": 1}]) == [OtherPart("hologram", '{"type": "hologram", "x": 1}')]


def test_gemini_parts_name_their_type_by_their_key() -> None:
    """Gemini's parts have no type."""
    raw = [{"text": "Hi"}, {"functionCall": {"id": "c1", "name": "add", "args": {"a": 1}}}]
    (found,) = read_messages([{"role": "model", "parts": raw}])
    assert (found.role, found.parts) == ("assistant", (TextPart("Hi"), CALL))


def test_no_attributes_no_conversation() -> None:
    """A span that is no call has an empty conversation."""
    assert messages({"app.key": 1, "gen_ai.completion.0.embedding_length": 2}) == Conversation()


def test_conversations_survive_json() -> None:
    """A conversation can be written as JSON and read back."""
    found = messages(OTEL)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Conversation) == found


def test_text_that_looks_like_json_stays_text() -> None:
    """A user who types a JSON list has typed a text."""
    found = messages({"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": '[{"a": 1}]'})
    assert found.input[0].text == '[{"a": 1}]'


json_keys = ["role", "type", "content", "contents", "parts", "text", "message", "tool_calls", "function", "name"]
json_keys += ["arguments", "image_url", "source", "data", "url", "tool_call", "message_content", "summary", "output"]
json_keys += ["input", "choices", "messages", "system", "reasoning", "id", "0", "1"]
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(json_keys),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
keys = st.sampled_from(
    [
        *OTEL,
        *OPENINFERENCE,
        *FLATTENED,
        *RAW,
        "gen_ai.prompt",
        "gen_ai.completion",
        "llm.prompts.0.prompt.text",
        "gen_ai.prompt.1",
    ]
)


@given(
    st.dictionaries(keys, st.one_of(json_values, json_values.map(json.dumps)), max_size=8),
    st.lists(st.dictionaries(st.text(), json_values), max_size=2),
)
def test_messages_never_raise(attributes: dict[str, Any], children: list[dict[str, Any]]) -> None:
    """Whatever the attributes hold, a conversation of the documented types comes back."""
    found = messages(attributes, children=children)
    for message in found.input + found.output:
        assert isinstance(message.role, str)
        assert all(isinstance(part, Part) for part in message.parts)


def test_a_deep_nest_is_no_crash() -> None:
    """JSON nested deeper than the interpreter's stack is left out."""
    assert messages({"gen_ai.input.messages": "[" * 200_000, "input.value": '{"messages":' * 100_000}) == Conversation()
