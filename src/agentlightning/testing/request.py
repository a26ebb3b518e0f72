"""A request to the model server, in one shape for chat completions, completions and responses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from agentlightning.testing.json_value import JsonObject, as_count, as_list, as_object, as_text
from agentlightning.testing.reply import ToolCall
from agentlightning.testing.tokenizer import pieces

Endpoint = Literal["chat", "completions", "responses"]


class BadRequestError(ValueError):
    """The request is not what the endpoint takes; the message goes to the client with status 400."""


@dataclass(frozen=True)
class Tool:
    """A function that the request offers to the model."""

    name: str
    description: str
    parameters: JsonObject
    """Its JSON schema."""


@dataclass(frozen=True)
class ChatMessage:
    """One message of the conversation."""

    role: str
    text: str
    """All text parts joined by line ends; other parts as ``[image_url]``."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """Call that a ``tool`` message answers."""


@dataclass(frozen=True)
class ChatRequest:
    """What a rule sees of a request."""

    number: int
    """Place among the requests that ask for an answer, from 1."""
    endpoint: Endpoint
    model: str
    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...]
    stream: bool
    choice_count: int
    """``n`` of the request."""
    body: JsonObject
    """The whole request as it came."""

    @property
    def last_text(self) -> str:
        """Text of the last message, empty when there is none."""
        return self.messages[-1].text if self.messages else ""

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools on offer, in order."""
        return tuple(tool.name for tool in self.tools)

    @property
    def prompt_pieces(self) -> list[str]:
        """The prompt in tokens; that of a later turn begins with this one and the answer to it."""
        offered = json.dumps([[tool.name, tool.description, tool.parameters] for tool in self.tools])
        result = pieces(offered) if self.tools else []
        for message in self.messages:
            result += [f"<{message.role}>", *answer_pieces(message.text, message.tool_calls), "<end>"]
        return [*result, "<assistant>"]


def answer_pieces(text: str, tool_calls: tuple[ToolCall, ...]) -> list[str]:
    """Return the tokens of an answer of the model: its text, then each call."""
    result = pieces(text)
    for call in tool_calls:
        result += [*call_pieces(call), *pieces(call.arguments_text)]
    return result


def call_pieces(call: ToolCall) -> list[str]:
    """Return the tokens that announce a tool call, without its arguments."""
    return ["<tool_call>", *pieces(call.name)]


def read_request(endpoint: Endpoint, body: JsonObject, number: int) -> ChatRequest:
    """Return the request of *endpoint* in *body*.

    Raises:
        BadRequestError: The model or the conversation is missing or of the wrong type.
    """
    model = as_text(body.get("model"))
    if not model:
        msg = "'model' must be a string that is not empty"
        raise BadRequestError(msg)
    readers = {"chat": _chat_messages, "completions": _prompt_messages, "responses": _input_messages}
    return ChatRequest(
        number=number,
        endpoint=endpoint,
        model=model,
        messages=tuple(readers[endpoint](body)),
        tools=tuple(_tool(as_object(tool)) for tool in as_list(body.get("tools"))),
        stream=body.get("stream") is True,
        choice_count=as_count(body.get("n"), 1) if endpoint != "responses" else 1,
        body=body,
    )


def _chat_messages(body: JsonObject) -> list[ChatMessage]:
    items = body.get("messages")
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        msg = "'messages' must be a list of objects that is not empty"
        raise BadRequestError(msg)
    return [_message(as_object(item)) for item in items]


def _message(item: JsonObject) -> ChatMessage:
    calls: list[ToolCall] = []
    for call in map(as_object, as_list(item.get("tool_calls"))):
        function = as_object(call.get("function"))
        calls.append(
            ToolCall(as_text(function.get("name")), as_text(function.get("arguments")), as_text(call.get("id")))
        )
    return ChatMessage(
        role=as_text(item.get("role")),
        text=_content_text(item),
        tool_calls=tuple(calls),
        tool_call_id=as_text(item.get("tool_call_id")),
    )


def _content_text(item: JsonObject) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = map(as_object, as_list(content))
    return "\n".join(as_text(part.get("text")) or f"[{as_text(part.get('type'))}]" for part in parts)


def _prompt_messages(body: JsonObject) -> list[ChatMessage]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [ChatMessage("user", prompt)]
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        return [ChatMessage("user", prompt[0])]
    msg = "'prompt' must be a string, or a list of one string"
    raise BadRequestError(msg)


def _input_messages(body: JsonObject) -> list[ChatMessage]:
    instructions = as_text(body.get("instructions"))
    result = [ChatMessage("system", instructions)] if instructions else []
    content = body.get("input")
    if isinstance(content, str):
        return [*result, ChatMessage("user", content)]
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        msg = "'input' must be a string or a list of objects"
        raise BadRequestError(msg)
    return [*result, *(_input_item(as_object(item)) for item in content)]


def _input_item(item: JsonObject) -> ChatMessage:
    kind, call_id = as_text(item.get("type")), as_text(item.get("call_id"))
    if kind == "function_call":
        call = ToolCall(as_text(item.get("name")), as_text(item.get("arguments")), call_id)
        return ChatMessage("assistant", "", (call,))
    if kind == "function_call_output":
        return ChatMessage("tool", as_text(item.get("output")), tool_call_id=call_id)
    return _message(item)


def _tool(item: JsonObject) -> Tool:
    # Chat completions wrap a tool in "function", responses do not.
    function = as_object(item.get("function")) or item
    return Tool(
        as_text(function.get("name")), as_text(function.get("description")), as_object(function.get("parameters"))
    )
