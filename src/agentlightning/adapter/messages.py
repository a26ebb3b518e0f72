"""Model calls as chat messages of OpenAI's form: what supervised fine-tuning trains on.

Whatever library recorded the call: the view reads its dialect, and here it is written in the one form that trainers
take.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypedDict, cast

from agentlightning.adapter.base import TraceAdapter
from agentlightning.adapter.tree import DEFAULT_LLM_CALL_MATCH, TraceTree
from agentlightning.types.record import JsonObject
from agentlightning.view.loose import as_dict, as_list, decoded, is_dict, unflattened
from agentlightning.view.messages import Message, messages, read_messages, read_tools, tool_call_below
from agentlightning.view.parts import MediaPart, OtherPart, TextPart, ToolCallPart, ToolResultPart

if TYPE_CHECKING:
    from agentlightning.types.tracer import Span
    from agentlightning.view.messages import ToolDefinition
    from agentlightning.view.parts import Part

ChatMessage = JsonObject
"""A message as OpenAI's chat completions take it: ``role``, ``content``, ``tool_calls``, ``tool_call_id``, ``name``."""


class OpenAIMessages(TypedDict):
    """One call: everything that was sent, with the answer as the last message."""

    messages: list[ChatMessage]
    tools: list[JsonObject] | None
    """The tools that were offered, as ``{"type": "function", "function": {...}}``; None where there were none."""


class RawSpanInfo(TypedDict):
    """A call as the 0.2 line took it apart before it made messages of it."""

    prompt: list[JsonObject]
    completion: list[JsonObject]
    request: JsonObject
    tools: list[JsonObject]


def group_genai_dict(data: Mapping[str, object], prefix: str) -> JsonObject | list[object]:
    """Return the attributes below *prefix* as nested dicts and lists: ``p.0.role`` becomes ``[{"role": ...}]``.

    Numbers make a list only where they are 0, 1, 2 and so on without a gap. Empty where nothing begins so.
    """
    tree = unflattened(data, prefix.rstrip(".") + ".")
    return cast("JsonObject | list[object]", _listed(tree))


def _listed(tree: object) -> object:
    if not is_dict(tree):
        return tree
    grown = {key: _listed(value) for key, value in tree.items()}
    if grown and all(str(place) in grown for place in range(len(grown))):
        return [grown[str(place)] for place in range(len(grown))]
    return grown


def convert_to_openai_messages(prompt_completion_list: list[RawSpanInfo]) -> Generator[OpenAIMessages, None, None]:
    """Yield the calls as messages, each with what was sent, what was answered, and the tools."""
    for raw in prompt_completion_list:
        functions = raw["request"].get("functions")
        tools = as_list(functions) or as_list(cast("object", raw["tools"]))
        yield _call(read_messages(raw["prompt"]), read_messages(raw["completion"]), read_tools(tools))


class TraceToMessages(TraceAdapter[list[OpenAIMessages]]):
    """Turns the model calls of one attempt into messages, in the order in which they started."""

    def get_tool_calls(self, completion: Span, all_spans: list[Span]) -> Iterable[JsonObject]:
        """Yield the tools that *completion* asked for and that AgentOps wrote on spans of their own below it."""
        for span in _below(completion, all_spans):
            asked = tool_call_below(span.attributes)
            if asked is not None:
                yield _tool_call(asked)

    def adapt(self, source: list[Span]) -> list[OpenAIMessages]:
        """Return one item for each innermost model call that holds messages; no spans give none."""
        if not source:
            return []
        tree = TraceTree.from_spans(source)
        calls = tree.find_llm_calls(
            llm_call_match=DEFAULT_LLM_CALL_MATCH, agent_match=None, within_reward=False, within_llm_call=False
        )
        witnesses = tree.witnesses([node for node, _ in calls])
        made: list[OpenAIMessages] = []
        for node, _ in calls:
            below = [child.span.attributes for child in node.children]
            every = (messages(span.attributes, children=below) for span in witnesses[node.id])
            found = next((found for found in every if found.input or found.output), None)
            if found is not None:
                made.append(_call(found.input, found.output, found.tools))
        return made


def chat_messages(found: Iterable[Message]) -> list[ChatMessage]:
    """Return messages of the view in OpenAI's form; one with several results of tools becomes several messages."""
    return [written for message in found for written in _written(message)]


def _below(span: Span, spans: list[Span]) -> Iterator[Span]:
    return (other for other in spans if other.parent_id == span.span_id and other.trace_id == span.trace_id)


def _call(sent: Iterable[Message], answered: Iterable[Message], tools: Iterable[ToolDefinition]) -> OpenAIMessages:
    definitions = [offered(tool) for tool in tools]
    return {"messages": chat_messages([*sent, *one_answer(list(answered))]), "tools": definitions or None}


def one_answer(answered: list[Message]) -> list[Message]:
    """Return the answer as one message: the first of several choices, or the items of one answer put together."""
    if len(answered) < 2:  # noqa: PLR2004 - nothing to choose from
        return answered
    first = answered[0]
    is_choices = sum(bool(message.text) for message in answered) > 1 or all(item.finish_reason for item in answered)
    if is_choices:
        return [first]
    return [Message("assistant", tuple(part for message in answered for part in message.parts), first.name)]


def _written(message: Message) -> Iterator[ChatMessage]:
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    for result in results:
        yield {"role": "tool", "tool_call_id": result.call_id, "content": result.text}
    rest = [part for part in message.parts if not isinstance(part, ToolResultPart)]
    if results and not any(not isinstance(part, TextPart) or part.text for part in rest):
        return
    # OpenAI takes a result only with the call that it answers; smolagents says its results as a user.
    role = "user" if message.role in ("", "tool") else message.role
    written: ChatMessage = {"role": role, "content": _content(rest)}
    if message.name:
        written["name"] = message.name
    calls = [_tool_call(part) for part in rest if isinstance(part, ToolCallPart)]
    if calls:
        written["tool_calls"] = calls
        written["content"] = written["content"] or None
    yield written


def _content(parts: Iterable[Part]) -> str | list[JsonObject]:
    """Return plain text where there is nothing else, and a list of parts where there is. What was thought stays out."""
    shown = [part for part in parts if isinstance(part, (TextPart, MediaPart, OtherPart))]
    if all(isinstance(part, TextPart) for part in shown):
        return "\n".join(part.text for part in shown if isinstance(part, TextPart))
    return [_content_part(part) for part in shown]


def _content_part(part: TextPart | MediaPart | OtherPart) -> JsonObject:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, OtherPart):
        return as_dict(decoded(part.json)) or {"type": part.name}
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": part.uri}}
    return {"type": "file", "file": {"filename": part.name, "file_data": part.uri}}


def _tool_call(part: ToolCallPart) -> JsonObject:
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}


def offered(tool: ToolDefinition) -> JsonObject:
    """Return a tool in OpenAI's form; one without a schema takes no arguments."""
    function: JsonObject = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    schema = decoded(tool.parameters)
    function["parameters"] = schema if isinstance(schema, Mapping) else {"type": "object", "properties": {}}
    return {"type": "function", "function": function}
