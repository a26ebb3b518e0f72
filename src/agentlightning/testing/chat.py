"""Answers of ``POST /v1/chat/completions``, whole and in chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from agentlightning.testing.answer import Answer, Choice, chat_usage, logprob_entries, wants_usage_chunk
from agentlightning.testing.dialect import choice_ids, first_chunk_ids, last_chunk_ids, whole_ids
from agentlightning.testing.json_value import Json, JsonObject, as_count
from agentlightning.testing.request import ChatRequest, call_pieces
from agentlightning.testing.tokenizer import ids_of, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.testing.reply import ToolCall


def chat_completion(answer: Answer) -> JsonObject:
    """Return the whole answer."""
    body = _frame(answer, "chat.completion")
    body["choices"] = [_choice(answer, choice) for choice in answer.choices]
    if answer.usage is not None:
        body["usage"] = chat_usage(answer.usage)
    body.update(whole_ids(answer))
    return body


def chat_chunks(answer: Answer) -> Iterator[JsonObject]:
    """Yield the chunks of a stream: the choices take turns, then the usage where it was asked for."""
    first = True
    for turn in zip_longest(*(_deltas(choice) for choice in answer.choices)):
        for choice, delta in zip(answer.choices, turn, strict=True):
            if delta is None:
                continue
            chunk = _frame(answer, "chat.completion.chunk")
            chunk["choices"] = [_chunk_choice(answer, choice, delta)]
            if first:
                chunk.update(first_chunk_ids(answer))
            first = False
            yield chunk
    extension = last_chunk_ids(answer)
    if extension:
        yield {**_frame(answer, "chat.completion.chunk"), "choices": [], **extension}
    if answer.usage is not None and wants_usage_chunk(answer.request):
        yield {**_frame(answer, "chat.completion.chunk"), "choices": [], "usage": chat_usage(answer.usage)}


@dataclass(frozen=True)
class _Delta:
    """What one chunk adds to a choice."""

    body: JsonObject
    tokens: list[str] = field(default_factory=list[str])
    text_place: int | None = None
    """Place in the text of the token, None for anything else than text."""
    finish_reason: str | None = None


def _frame(answer: Answer, kind: str) -> JsonObject:
    return {
        "id": answer.identifier("chatcmpl-"),
        "object": kind,
        "created": answer.created,
        "model": answer.request.model,
        "system_fingerprint": "fp_testing",
    }


def _choice(answer: Answer, choice: Choice) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": choice.text or None, "refusal": None}
    if not choice.tool_calls:
        message["content"] = choice.text
    else:
        message["tool_calls"] = [_call(call) for call in choice.tool_calls]
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    entries = _logprobs(answer, pieces(choice.text), first=True)
    body: JsonObject = {
        "index": choice.index,
        "message": message,
        "logprobs": entries,
        "finish_reason": choice.finish_reason,
    }
    body.update(choice_ids(answer, choice.token_ids, first=True))
    return body


def _call(call: ToolCall) -> JsonObject:
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments_text},
    }


def _deltas(choice: Choice) -> Iterator[_Delta]:
    yield _Delta({"role": "assistant", "content": None if choice.tool_calls and not choice.text else ""})
    for token in pieces(choice.reasoning):
        yield _Delta({"reasoning_content": token}, [token])
    for place, token in enumerate(pieces(choice.text)):
        yield _Delta({"content": token}, [token], text_place=place)
    for place, call in enumerate(choice.tool_calls):
        opening: JsonObject = {"index": place, **_call(call), "function": {"name": call.name, "arguments": ""}}
        yield _Delta({"tool_calls": [opening]}, call_pieces(call))
        for token in pieces(call.arguments_text):
            yield _Delta({"tool_calls": [{"index": place, "function": {"arguments": token}}]}, [token])
    yield _Delta({}, finish_reason=choice.finish_reason)


def _chunk_choice(answer: Answer, choice: Choice, delta: _Delta) -> JsonObject:
    entries = None if delta.text_place is None else _logprobs(answer, delta.tokens, first=delta.text_place == 0)
    body: JsonObject = {
        "index": choice.index,
        "delta": delta.body,
        "logprobs": entries,
        "finish_reason": delta.finish_reason,
    }
    if delta.tokens:
        body.update(choice_ids(answer, ids_of(delta.tokens), first=False))
    return body


def _logprobs(answer: Answer, tokens: list[str], *, first: bool) -> Json:
    if answer.request.body.get("logprobs") is not True:
        return None
    return {"content": logprob_entries(answer, tokens, _top_count(answer.request), first=first), "refusal": None}


def _top_count(request: ChatRequest) -> int:
    return as_count(request.body.get("top_logprobs"), 0)
