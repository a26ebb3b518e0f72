"""Values as attributes: the names of OpenInference that our own instrumentors write, and values as JSON text.

Source of the names: the semantic conventions of OpenInference (``openinference-semantic-conventions``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from agentlightning import semconv
from agentlightning._internal.failing import ask

Attributes = dict[str, Any]
"""Attributes on their way to a span."""

AGENT_NAME = "agent.name"
TOOL_NAME = "tool.name"
TOOL_DESCRIPTION = "tool.description"
TOOL_PARAMETERS = "tool.parameters"
LLM_MODEL = "llm.model_name"
LLM_PROVIDER = "llm.provider"
LLM_SYSTEM = "llm.system"
LLM_INVOCATION = "llm.invocation_parameters"
LLM_FINISH_REASON = "llm.finish_reason"
LLM_TOOLS = "llm.tools"
LLM_INPUT_MESSAGES = "llm.input_messages"
LLM_OUTPUT_MESSAGES = "llm.output_messages"
PROMPT_TOKENS = "llm.token_count.prompt"
COMPLETION_TOKENS = "llm.token_count.completion"
TOTAL_TOKENS = "llm.token_count.total"
CACHE_READ_TOKENS = "llm.token_count.prompt_details.cache_read"
REASONING_TOKENS = "llm.token_count.completion_details.reasoning"

JSON = "application/json"
TEXT = "text/plain"

RESERVE = 40
"""Attributes that are kept free for what comes at the end of a span, where the provider limits their number."""

_REPR_CHARACTERS = 2**16
"""Longest ``repr`` of an object that JSON has no form for."""


class ToolCall(NamedTuple):
    """A call that a model asked for."""

    id: str | None
    name: str | None
    arguments: object
    """JSON text, or an object that becomes it."""


def room(span: object) -> int | None:
    """Return how many more attributes *span* takes before older ones are dropped, None where there is no limit.

    A joined provider has the SDK's limit of 128, and the SDK writes a warning to stderr for each one that it drops.
    """
    limit = getattr(getattr(span, "_limits", None), "max_span_attributes", None)
    return None if limit is None else limit - len(getattr(span, "attributes", None) or ())


def bounded_repr(value: object) -> str:
    """Return ``repr(value)``, cut to 64 Ki characters; its type alone when ``repr`` fails."""
    text = ask(lambda: repr(value), lambda _: f"<{type(value).__qualname__}>")
    return text if len(text) <= _REPR_CHARACTERS else text[:_REPR_CHARACTERS] + "…"


def json_text(value: object) -> str:
    """Return JSON text of *value*; what JSON has no form for becomes its ``repr``. Never raises ``ValueError``."""
    try:
        return json.dumps(value, ensure_ascii=False, default=bounded_repr)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, circular references
        return json.dumps(bounded_repr(value), ensure_ascii=False)


def text_of(value: object) -> str:
    """Return text as it is and anything else as JSON text."""
    return value if isinstance(value, str) else json_text(value)


def value_attributes(key: str, mime_key: str, value: object) -> Attributes:
    """Return the attributes for an input or output: text as it is, else JSON text."""
    if isinstance(value, str):
        return {key: value, mime_key: TEXT}
    return {key: json_text(value), mime_key: JSON}


def input_attributes(value: object) -> Attributes:
    """Return ``input.value`` with its type."""
    return value_attributes(semconv.INPUT_VALUE, semconv.INPUT_MIME_TYPE, value)


def output_attributes(value: object) -> Attributes:
    """Return ``output.value`` with its type."""
    return value_attributes(semconv.OUTPUT_VALUE, semconv.OUTPUT_MIME_TYPE, value)


def message_attributes(
    prefix: str, role: str | None, content: object, tool_calls: Iterable[ToolCall] = ()
) -> Iterator[tuple[str, str]]:
    """Yield the attributes of one message; *prefix* is such as ``llm.input_messages.0``.

    Content is text, or a list of parts ``{"type": "text", "text": ...}``; an image is named, not copied.
    """
    prefix += ".message."
    if role is not None:
        yield prefix + "role", role
    if isinstance(content, str):
        yield prefix + "content", content
    elif content is not None:
        yield from _part_attributes(prefix, list(_parts(content)))
    for index, call in enumerate(tool_calls):
        start = f"{prefix}tool_calls.{index}.tool_call."
        if call.id is not None:
            yield start + "id", call.id
        if call.name is not None:
            yield start + "function.name", call.name
        if call.arguments is not None:
            yield start + "function.arguments", text_of(call.arguments)


def _part_attributes(prefix: str, parts: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield one plain text where there is only that, else every part with its type."""
    if len(parts) == 1 and parts[0][0] == "text":
        yield prefix + "content", parts[0][1]
        return
    for index, (kind, text) in enumerate(parts):
        start = f"{prefix}contents.{index}.message_content."
        yield start + "type", kind
        yield start + ("image.image.url" if kind == "image" else "text"), text


def _parts(content: object) -> Iterator[tuple[str, str]]:
    """Yield type and text of each part of a message's content."""
    if not isinstance(content, (list, tuple)):
        yield "text", text_of(content)
        return
    for part in cast("Iterable[object]", content):
        if not isinstance(part, Mapping):
            yield "text", text_of(part)
            continue
        fields = cast("Mapping[str, object]", part)
        kind = str(fields.get("type", "text"))
        if "image" in kind:
            yield "image", _image_url(fields)
        else:
            yield ("text" if "text" in kind else kind), text_of(fields.get("text", fields.get("refusal", fields)))


def _image_url(part: Mapping[str, object]) -> str:
    """Return an image's address, or its ``repr`` when it is an object in memory."""
    image = part.get("image_url", part.get("image"))
    if isinstance(image, Mapping):
        image = cast("Mapping[str, object]", image).get("url")
    return image if isinstance(image, str) else bounded_repr(image)


def first_of(value: object, *names: str) -> Any:  # noqa: ANN401 - attributes of another library's objects
    """Return the first attribute of *value* among *names* that is there and not None."""
    for name in names:
        found = getattr(value, name, None)
        if found is not None:
            return found
    return None


def count(value: object) -> int | None:
    """Return a token count, or None for what is none: absent, negative, or a mock."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def put_count(attributes: Attributes, key: str, value: object) -> None:
    """Write a token count where there is one; a missing count stays missing."""
    number = count(value)
    if number is not None:
        attributes[key] = number
