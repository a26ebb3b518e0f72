"""Requests and answers of the OpenAI API as attributes, by the names of OpenInference.

Both are plain data: the body of the request, and the answer as ``openai_output`` makes it. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning import semconv
from agentlightning.instrumentation.attribute import (
    CACHE_READ_TOKENS,
    COMPLETION_TOKENS,
    LLM_FINISH_REASON,
    LLM_INPUT_MESSAGES,
    LLM_INVOCATION,
    LLM_MODEL,
    LLM_OUTPUT_MESSAGES,
    LLM_SYSTEM,
    LLM_TOOLS,
    PROMPT_TOKENS,
    REASONING_TOKENS,
    TOTAL_TOKENS,
    ToolCall,
    input_attributes,
    json_text,
    message_attributes,
    output_attributes,
    put_count,
    text_of,
)
from agentlightning.instrumentation.openai_token import field, items

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentlightning.instrumentation.attribute import Attributes

_CONTENT = frozenset({"messages", "input", "prompt", "tools", "instructions", "functions"})
_EMBEDDING_MODEL = "embedding.model_name"


def request_attributes(path: str, body: Mapping[str, object]) -> Attributes:
    """Return what a request's body tells; *path* is such as ``/chat/completions``."""
    embedding = path.endswith("/embeddings")
    found: Attributes = {
        semconv.OPENINFERENCE_KIND: "EMBEDDING" if embedding else "LLM",
        LLM_SYSTEM: "openai",
        **input_attributes(body),
    }
    model = body.get("model")
    if isinstance(model, str):
        found[_EMBEDDING_MODEL if embedding else LLM_MODEL] = model
    if embedding:
        return found
    found[LLM_INVOCATION] = json_text({key: value for key, value in body.items() if key not in _CONTENT})
    for index, tool in enumerate(items(body.get("tools"))):
        found[f"{LLM_TOOLS}.{index}.tool.json_schema"] = text_of(tool)
    for index, message in enumerate(_input_messages(path, body)):
        found.update(_message(f"{LLM_INPUT_MESSAGES}.{index}", message))
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else items(prompt)
    for index, text in enumerate(prompts):
        if isinstance(text, str):
            found[f"llm.prompts.{index}.prompt.text"] = text
    return found


def response_attributes(payload: Mapping[str, object]) -> Attributes:
    """Return what an answer tells; a token count that the provider did not report stays missing."""
    found: Attributes = dict(output_attributes(payload))
    model = payload.get("model")
    if isinstance(model, str) and model and payload.get("object") != "list":
        found[LLM_MODEL] = model
    reasons: list[str] = []
    for place, choice in enumerate(items(payload.get("choices"))):
        index = field(choice, "index")
        index = index if isinstance(index, int) else place
        message = field(choice, "message")
        if message is not None:
            found.update(_message(f"{LLM_OUTPUT_MESSAGES}.{index}", message))
        text = field(choice, "text")
        if isinstance(text, str):
            found[f"llm.choices.{index}.completion.text"] = text
        reason = field(choice, "finish_reason")
        if isinstance(reason, str):
            reasons.append(reason)
    if reasons:
        found[LLM_FINISH_REASON] = reasons[0]
    for index, message in enumerate(_item_messages(payload.get("output"))):
        found.update(_message(f"{LLM_OUTPUT_MESSAGES}.{index}", message))
    found.update(usage_attributes(payload.get("usage")))
    return found


def usage_attributes(usage: object) -> Attributes:
    """Return token counts of chat completions (``prompt_tokens``) or responses (``input_tokens``)."""
    found: Attributes = {}
    for side, old, new, key, part, part_key in (
        ("prompt", "prompt_tokens", "input_tokens", PROMPT_TOKENS, "cached_tokens", CACHE_READ_TOKENS),
        ("completion", "completion_tokens", "output_tokens", COMPLETION_TOKENS, "reasoning_tokens", REASONING_TOKENS),
    ):
        total = field(usage, old)
        put_count(found, key, field(usage, new) if total is None else total)
        details = field(usage, f"{old}_details") or field(usage, f"{new}_details")
        put_count(found, part_key, field(details, part))
        if side == "prompt":
            put_count(found, CACHE_READ_TOKENS.replace("_read", "_write"), field(details, "cache_write_tokens"))
    put_count(found, TOTAL_TOKENS, field(usage, "total_tokens"))
    return found


def _input_messages(path: str, body: Mapping[str, object]) -> Iterator[object]:
    yield from items(body.get("messages"))
    if not path.endswith("/responses"):
        return
    instructions, given = body.get("instructions"), body.get("input")
    if isinstance(instructions, str):
        yield {"role": "system", "content": instructions}
    if isinstance(given, str):
        yield {"role": "user", "content": given}
    else:
        yield from _item_messages(given)


def _item_messages(output: object) -> Iterator[object]:
    """Yield the items of a response's input or output as messages."""
    for item in items(output):
        kind = field(item, "type")
        if kind == "function_call":
            function = {"name": field(item, "name"), "arguments": field(item, "arguments")}
            yield {"role": "assistant", "tool_calls": [{"id": field(item, "call_id"), "function": function}]}
        elif kind == "function_call_output":
            yield {"role": "tool", "content": field(item, "output"), "tool_call_id": field(item, "call_id")}
        elif kind == "reasoning":
            text = "".join(str(field(part, "text") or "") for part in items(field(item, "summary")))
            yield {"role": "assistant", "reasoning_content": text}
        elif field(item, "role") is not None:
            yield item


def _message(prefix: str, message: object) -> Iterator[tuple[str, str]]:
    role = field(message, "role")
    content = field(message, "content")
    if content is None:
        content = field(message, "refusal")
    calls = [_tool_call(call) for call in items(field(message, "tool_calls"))]
    yield from message_attributes(prefix, None if role is None else str(role), content, calls)
    for name in ("tool_call_id", "name", "reasoning_content"):
        value = field(message, name)
        if isinstance(value, str) and value:
            yield f"{prefix}.message.{name}", value


def _tool_call(call: object) -> ToolCall:
    function = field(call, "function")
    identifier, name = field(call, "id"), field(function, "name")
    return ToolCall(
        identifier if isinstance(identifier, str) else None,
        name if isinstance(name, str) else None,
        field(function, "arguments"),
    )
