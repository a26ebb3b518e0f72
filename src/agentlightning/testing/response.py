"""Answers of ``POST /v1/responses``: the whole response, and the events of its stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning.testing.answer import Answer, logprob_entries
from agentlightning.testing.json_value import Json, JsonObject, as_count, as_list, as_object
from agentlightning.testing.tokenizer import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.testing.reply import ToolCall, Usage


def response(answer: Answer) -> JsonObject:
    """Return the whole response."""
    return _frame(answer, "completed", _items(answer))


def response_events(answer: Answer) -> Iterator[JsonObject]:
    """Yield the events of a stream, numbered from 0; the last one holds the whole response."""
    for number, event in enumerate(_events(answer)):
        yield {**event, "sequence_number": number}


def _events(answer: Answer) -> Iterator[JsonObject]:
    opened = _frame(answer, "in_progress", [])
    yield {"type": "response.created", "response": opened}
    yield {"type": "response.in_progress", "response": opened}
    items = _items(answer)
    for place, item in enumerate(items):
        part = as_object((as_list(item.get("content")) or [None])[0])
        blank = {**item, "status": "in_progress"}
        blank.update({"arguments": ""} if item["type"] == "function_call" else {"content": []})
        yield {"type": "response.output_item.added", "output_index": place, "item": blank}
        where: JsonObject = {"output_index": place, "item_id": item["id"]}
        yield from _text_events(answer, where, part) if part else _call_events(where, item)
        yield {"type": "response.output_item.done", "output_index": place, "item": item}
    yield {"type": "response.completed", "response": _frame(answer, "completed", items)}


def _text_events(answer: Answer, where: JsonObject, part: JsonObject) -> Iterator[JsonObject]:
    where = {**where, "content_index": 0}
    yield {"type": "response.content_part.added", **where, "part": {**part, "text": "", "logprobs": []}}
    for place, token in enumerate(pieces(str(part["text"]))):
        entries = _logprobs(answer, [token], first=place == 0)
        yield {"type": "response.output_text.delta", **where, "delta": token, "logprobs": entries}
    yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": part["logprobs"]}
    yield {"type": "response.content_part.done", **where, "part": part}


def _call_events(where: JsonObject, item: JsonObject) -> Iterator[JsonObject]:
    arguments = str(item["arguments"])
    for token in pieces(arguments):
        yield {"type": "response.function_call_arguments.delta", **where, "delta": token}
    yield {
        "type": "response.function_call_arguments.done",
        **where,
        "name": item["name"],
        "arguments": arguments,
    }


def _items(answer: Answer) -> list[JsonObject]:
    choice = answer.choices[0]
    items: list[JsonObject] = []
    if choice.text or not choice.tool_calls:
        entries = _logprobs(answer, pieces(choice.text), first=True)
        part: JsonObject = {"type": "output_text", "text": choice.text, "annotations": [], "logprobs": entries}
        items.append(
            {
                "id": answer.identifier("msg_"),
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [part],
            }
        )
    items += [_call_item(call) for call in choice.tool_calls]
    return items


def _call_item(call: ToolCall) -> JsonObject:
    return {
        "id": f"fc_{call.call_id}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments_text,
    }


def _frame(answer: Answer, status: str, items: list[JsonObject]) -> JsonObject:
    asked = answer.request.body
    finished = status == "completed"
    return {
        "id": answer.identifier("resp_"),
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "metadata": asked.get("metadata") or {},
        "model": answer.request.model,
        "output": [*items],
        "parallel_tool_calls": True,
        "previous_response_id": asked.get("previous_response_id"),
        "temperature": asked.get("temperature", 1.0),
        "text": asked.get("text") or {"format": {"type": "text"}},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": asked.get("tools") or [],
        "top_p": asked.get("top_p", 1.0),
        "usage": _usage(answer.usage) if finished and answer.usage is not None else None,
    }


def _usage(usage: Usage) -> JsonObject:
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": prompt + completion,
    }


def _logprobs(answer: Answer, tokens: list[str], *, first: bool) -> list[Json]:
    asked = answer.request.body
    if "message.output_text.logprobs" not in as_list(asked.get("include")):
        return []
    return logprob_entries(answer, tokens, as_count(asked.get("top_logprobs"), 0), first=first)
