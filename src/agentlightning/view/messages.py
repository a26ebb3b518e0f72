"""The conversation of an LLM call, from the attributes of any dialect.

For readers, not for the capture path: it decodes JSON. Never raises for what an attribute holds; what cannot be read
is left out, and the raw attributes stay where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning.view.loose import (
    as_dict,
    as_list,
    as_text,
    decoded,
    encoded,
    first_text,
    is_complete,
    is_dict,
    unflattened,
)
from agentlightning.view.parts import (
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    call,
    parts,
    plain_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Message(msgspec.Struct, frozen=True):
    """One message; its parts are in the order in which they were written."""

    role: str
    """``system developer user assistant tool``, or what the program called it."""
    parts: tuple[Part, ...] = ()
    name: str = ""
    finish_reason: str = ""
    """Why the model stopped, on output messages of dialects that say it for each message."""

    @property
    def text(self) -> str:
        """All text parts, one below the other."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def reasoning(self) -> str:
        """All that the model thought, one below the other."""
        return "\n".join(part.text for part in self.parts if isinstance(part, ReasoningPart))

    @property
    def tool_calls(self) -> list[ToolCallPart]:
        """The tools that the model asked for."""
        return [part for part in self.parts if isinstance(part, ToolCallPart)]


class ToolDefinition(msgspec.Struct, frozen=True):
    """A tool that was offered to the model."""

    name: str
    description: str = ""
    parameters: str = ""
    """JSON schema of the arguments as JSON text; empty where none was given."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """What went into a call and what came out of it."""

    input: tuple[Message, ...] = ()
    """Everything that was sent, the system prompt first where it was sent beside the messages."""
    output: tuple[Message, ...] = ()
    """The answers: one for each choice, or the items of one answer where the provider splits it."""
    tools: tuple[ToolDefinition, ...] = ()
    input_dialect: str = ""
    """Which dialect the input was read from: ``otel openinference openllmetry``, ``value`` for the raw request."""
    output_dialect: str = ""

    @property
    def system(self) -> str:
        """The system prompt: the text of the messages with role ``system`` or ``developer``."""
        return "\n".join(message.text for message in self.input if message.role in ("system", "developer"))


def messages(attributes: Mapping[str, object], *, children: Iterable[Mapping[str, object]] = ()) -> Conversation:
    """Return the conversation in *attributes*; empty where they hold none.

    Args:
        attributes: Those of the span of the call.
        children: Those of the spans directly below it, where they are at hand: AgentOps 0.4.18 and newer write a tool
            that the model asks for on a span ``tool_call.NAME`` of its own. Others are ignored.
    """
    sent, input_dialect = _first(attributes, _INPUTS)
    answered, output_dialect = _first(attributes, _OUTPUTS)
    if sent and not any(message.role in ("system", "developer") for message in sent):
        prompt = _instructions(attributes)
        sent = [*([Message("system", tuple(prompt))] if prompt else []), *sent]
    asked = [tool_call_below(child) for child in children]
    if answered and any(asked) and not any(message.tool_calls for message in answered):
        calls = tuple(item for item in asked if item is not None)
        answered[0] = msgspec.structs.replace(answered[0], parts=answered[0].parts + calls)
    return Conversation(
        input=tuple(sent),
        output=tuple(answered),
        tools=tuple(_tools(attributes)),
        input_dialect=input_dialect,
        output_dialect=output_dialect,
    )


def tool_call_below(child: Mapping[str, object]) -> ToolCallPart | None:
    """Return the tool that a model asked for, from the attributes of AgentOps' span for it; None for any other span."""
    name, call_id = as_text(child.get("tool.name")), as_text(child.get("tool.call.id"))
    if not name or "tool.call.type" not in child:
        return None
    return ToolCallPart(call_id, name, encoded(child.get("tool.parameters")))


def read_messages(raw: object) -> list[Message]:
    """Return the messages in *raw*, a list of messages or items in any known form, decoded from JSON.

    Knows OpenAI chat and responses, Anthropic, Gemini, OpenTelemetry, OpenInference and the flattened forms.
    """
    if isinstance(raw, str):
        return [Message("user", (TextPart(raw),))] if raw else []
    listed = as_list(raw) or ([raw] if is_dict(raw) else [])
    return [
        _message(item) if is_dict(item) else _said(item) for item in listed if not is_dict(item) or _KEYS & item.keys()
    ]


def _said(item: object) -> Message:
    return Message("user", tuple(parts(item)) or (TextPart(encoded(item)),))


def _message(raw: dict[str, object]) -> Message:
    raw = as_dict(raw.get("message")) or raw
    role = first_text(raw, "role", "type")
    if "role" not in raw and role in _ITEM_ROLES:  # an item of the responses API that is no message
        return Message(_ITEM_ROLES[role], tuple(parts(raw)))
    role = _ROLES.get(role, role)
    found: list[Part] = [
        ReasoningPart(text) for text in (first_text(raw, "reasoning_content", "reasoning", "thinking"),) if text
    ]
    call_id = as_text(raw.get("tool_call_id"))
    if role == "tool" and call_id:
        found.append(
            ToolResultPart(
                call_id, plain_text(raw.get("content") or raw.get("contents") or ""), as_text(raw.get("name"))
            )
        )
    else:
        found += _content(raw)
    seen = {part.id for part in found if isinstance(part, ToolCallPart)}
    asked = [call(as_dict(item)) for item in as_list(raw.get("tool_calls"))]
    if raw.get("function_call"):
        asked.append(call(as_dict(raw["function_call"])))
    # OpenInference writes a call of Anthropic's twice, in the content and beside it.
    found += [item for item in asked if not item.id or item.id not in seen]
    return Message(role, tuple(found), as_text(raw.get("name")), first_text(raw, "finish_reason", "stop_reason"))


def _content(raw: dict[str, object]) -> list[Part]:
    for key in ("parts", "contents", "content"):
        if key not in raw:
            continue
        content = raw[key]
        if isinstance(content, str) and content[:2] in ("[{", '["'):
            # AgentOps and older OpenLLMetry flatten a list of parts into one text.
            listed = decoded(content)
            if isinstance(listed, list) and all("type" in as_dict(item) for item in as_list(cast("object", listed))):
                return parts(cast("object", listed))
        return parts(content)
    refusal = as_text(raw.get("refusal"))
    return [TextPart(refusal)] if refusal else []


def _first(
    attributes: Mapping[str, object], sources: Iterable[tuple[str, Callable[[Mapping[str, object]], list[Message]]]]
) -> tuple[list[Message], str]:
    for dialect, read in sources:
        found = read(attributes)
        if found:
            return found, dialect
    return [], ""


def _json(*names: str) -> Callable[[Mapping[str, object]], list[Message]]:
    def read(attributes: Mapping[str, object]) -> list[Message]:
        """Return the messages of the first name that holds any."""
        for name in names:
            value = attributes.get(name)
            found = read_messages(decoded(value) if isinstance(value, str) else [decoded(v) for v in as_list(value)])
            if found:
                return found
        return []

    return read


def _flattened(prefix: str, role: str, *, whole: bool) -> Callable[[Mapping[str, object]], list[Message]]:
    def read(attributes: Mapping[str, object]) -> list[Message]:
        """Return the messages below the prefix; none of an incomplete list that has to be whole."""
        tree = unflattened(attributes, prefix)
        if whole and not is_complete(tree):
            return []
        found = read_messages(tree)
        return [msgspec.structs.replace(message, role=message.role or role) for message in found]

    return read


def _request(attributes: Mapping[str, object]) -> list[Message]:
    value = attributes.get("input.value")
    body = decoded(value)
    if isinstance(body, list):
        return read_messages(cast("object", body)) if _are_messages(cast("object", body)) else []
    request = as_dict(body)
    for key in ("messages", "input", "contents", "prompt"):
        if key in request:
            listed = request[key]
            return read_messages(listed) if isinstance(listed, str) or _are_messages(listed) else []
    return []


def _are_messages(listed: object) -> bool:
    items = as_list(listed)
    return bool(items) and all("role" in as_dict(item) or as_dict(item).get("type") in _ITEM_ROLES for item in items)


def _answer(attributes: Mapping[str, object]) -> list[Message]:
    body = decoded(attributes.get("output.value"))
    if isinstance(body, list):
        return read_messages(cast("object", body)) if _are_messages(cast("object", body)) else []
    answer = as_dict(body)
    if "choices" in answer:
        return [_choice(as_dict(choice)) for choice in as_list(answer["choices"])]
    if _are_messages(answer.get("output")):  # responses
        return read_messages(answer["output"])
    if "role" in answer:  # Anthropic, smolagents
        return [_message(answer)]
    return []


def _choice(choice: dict[str, object]) -> Message:
    if "message" not in choice:  # completions
        return Message("assistant", tuple(parts(choice.get("text"))), "", as_text(choice.get("finish_reason")))
    message = _message(as_dict(choice["message"]))
    return msgspec.structs.replace(message, finish_reason=as_text(choice.get("finish_reason")))


def _completion(prefix: str, name: str, role: str) -> Callable[[Mapping[str, object]], list[Message]]:
    """Read the texts of the completions API: ``llm.prompts.0.prompt.text``."""

    def read(attributes: Mapping[str, object]) -> list[Message]:
        """Return a message for each text; empty ones are left out."""
        listed = as_list(unflattened(attributes, prefix))
        texts = [as_text(as_dict(as_dict(item).get(name)).get("text")) for item in listed]
        return [Message(role, (TextPart(text),)) for text in texts if text]

    return read


def _instructions(attributes: Mapping[str, object]) -> list[Part]:
    for name in ("gen_ai.system_instructions", "gen_ai.request.instructions"):
        value = attributes.get(name)
        if isinstance(value, str) and value:
            structured = decoded(value)
            return parts(structured) if is_dict(structured) or as_list(structured) else [TextPart(value)]
    request = as_dict(decoded(attributes.get("input.value")))
    return parts(request.get("system") or request.get("instructions"))


def _tools(attributes: Mapping[str, object]) -> list[ToolDefinition]:
    defined = as_list(decoded(attributes.get("gen_ai.tool.definitions")))
    if not defined:
        listed = as_list(unflattened(attributes, "llm.tools."))
        defined = [decoded(as_dict(as_dict(item).get("tool")).get("json_schema")) for item in listed]
    # The last one: AgentOps 0.4.13 on responses.
    for prefix in ("gen_ai.request.functions.", "llm.request.functions.", "gen_ai.request.tools."):
        defined = defined or as_list(unflattened(attributes, prefix))
    if not defined:
        request = as_dict(decoded(attributes.get("input.value")))
        defined = as_list(request.get("tools"))
    return read_tools(defined)


def read_tools(listed: Iterable[object]) -> list[ToolDefinition]:
    """Return the tools in *listed*, in any known form, decoded from JSON; what is no tool is left out."""
    return [_tool(as_dict(item)) for item in listed if is_dict(item)]


def _tool(raw: dict[str, object]) -> ToolDefinition:
    function = as_dict(raw.get("function")) or raw
    names = ("parameters", "input_schema", "inputSchema", "arguments")
    schema = next((function[name] for name in names if function.get(name)), None)
    return ToolDefinition(first_text(function, "name", "type"), as_text(function.get("description")), encoded(schema))


# What has none of these is no message: AgentOps writes the length of an embedding where a completion belongs.
_KEYS = frozenset({"role", "type", "message", "parts", "content", "contents", "tool_calls", "finish_reason"})
_ROLES = {
    "human": "user",
    "ai": "assistant",
    "model": "assistant",
    "function": "tool",
    # smolagents
    "tool-call": "assistant",
    "tool-response": "tool",
}
_ITEM_ROLES = {
    "function_call": "assistant",
    "custom_tool_call": "assistant",
    "mcp_call": "assistant",
    "reasoning": "assistant",
    "message": "assistant",
    "function_call_output": "tool",
    "custom_tool_call_output": "tool",
}

_INPUTS = (
    ("otel", _json("gen_ai.input.messages")),
    ("openinference", _flattened("llm.input_messages.", "user", whole=True)),
    ("openllmetry", _flattened("gen_ai.prompt.", "user", whole=True)),
    ("value", _request),
    ("openinference", _completion("llm.prompts.", "prompt", "user")),
    # Where a span limit cut the flattened form, the rest is better than nothing.
    ("openinference", _flattened("llm.input_messages.", "user", whole=False)),
    ("openllmetry", _flattened("gen_ai.prompt.", "user", whole=False)),
    ("otel-old", _json("gen_ai.prompt", "pydantic_ai.all_messages", "all_messages_events")),
)
"""Where input is looked for, in order."""

_OUTPUTS = (
    ("otel", _json("gen_ai.output.messages")),
    ("openinference", _flattened("llm.output_messages.", "assistant", whole=True)),
    ("openllmetry", _flattened("gen_ai.completion.", "assistant", whole=True)),
    ("value", _answer),
    ("openinference", _completion("llm.choices.", "completion", "assistant")),
    ("openinference", _flattened("llm.output_messages.", "assistant", whole=False)),
    ("openllmetry", _flattened("gen_ai.completion.", "assistant", whole=False)),
    ("otel-old", _json("gen_ai.completion")),
)
"""Where output is looked for, in order."""
