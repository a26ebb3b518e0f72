"""Answers of ``POST /v1/completions``, whole and in chunks."""

from __future__ import annotations

import math
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING

from agentlightning.testing.answer import Answer, Choice, chat_usage, wants_usage_chunk
from agentlightning.testing.dialect import choice_ids, whole_ids
from agentlightning.testing.tokenizer import ids_of, logprob, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.testing.json_value import Json, JsonObject


def completion(answer: Answer) -> JsonObject:
    """Return the whole answer."""
    body = _frame(answer)
    body["choices"] = [_choice(answer, choice, pieces(choice.text), choice.finish_reason) for choice in answer.choices]
    if answer.usage is not None:
        body["usage"] = chat_usage(answer.usage)
    body.update(whole_ids(answer))
    return body


def completion_chunks(answer: Answer) -> Iterator[JsonObject]:
    """Yield the chunks of a stream: the choices take turns, then the usage where it was asked for."""
    for place, turn in enumerate(zip_longest(*([*pieces(choice.text), ""] for choice in answer.choices))):
        for choice, token in zip(answer.choices, turn, strict=True):
            if token is None:
                continue
            tokens = [token] if token else []
            finish_reason = None if token else choice.finish_reason
            body = _choice(answer, choice, tokens, finish_reason, first=place == 0)
            yield {**_frame(answer), "choices": [body]}
    if answer.usage is not None and wants_usage_chunk(answer.request):
        yield {**_frame(answer), "choices": [], "usage": chat_usage(answer.usage)}


def _frame(answer: Answer) -> JsonObject:
    return {
        "id": answer.identifier("cmpl-"),
        "object": "text_completion",
        "created": answer.created,
        "model": answer.request.model,
    }


def _choice(
    answer: Answer, choice: Choice, tokens: list[str], finish_reason: str | None, *, first: bool = True
) -> JsonObject:
    body: JsonObject = {
        "index": choice.index,
        "text": "".join(tokens),
        "logprobs": _logprobs(answer, tokens, first=first),
        "finish_reason": finish_reason,
    }
    body.update(choice_ids(answer, ids_of(tokens), first=first))
    return body


def _logprobs(answer: Answer, tokens: list[str], *, first: bool) -> JsonObject | None:
    asked = answer.request.body.get("logprobs")
    if asked is None or asked is False:
        return None
    values = [logprob(token) for token in tokens]
    if answer.nan_logprobs and first and values:
        values[0] = math.nan
    offsets: list[Json] = [*accumulate((len(token) for token in tokens[:-1]), initial=0)]
    candidates: list[Json] = [{token: value} for token, value in zip(tokens, values, strict=True)]
    return {
        "tokens": [*tokens],
        "token_logprobs": [*values],
        "top_logprobs": candidates,
        "text_offset": offsets[: len(tokens)],
    }
