"""A reply together with the request that it answers: choices, usage and token ids, ready to be written in any API."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from agentlightning.testing.json_value import Json, JsonObject, as_object
from agentlightning.testing.reply import Reply, ToolCall, Usage
from agentlightning.testing.request import ChatRequest, answer_pieces
from agentlightning.testing.tokenizer import ids_of, logprob, pieces

TokenDialect = Literal["vllm", "vllm-old", "litellm", "sglang"]
"""A server's way to report token ids, see ``agentlightning.testing.dialect``."""

CREATED = 1_700_000_000
"""Time of the answer with number 0 in seconds; each later one is a second younger."""


@dataclass(frozen=True)
class Choice:
    """One of the ``n`` answers."""

    index: int
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str

    @property
    def token_ids(self) -> list[int]:
        """Ids of the thinking, the text and the calls, in this order."""
        return ids_of([*pieces(self.reasoning), *answer_pieces(self.text, self.tool_calls)])


@dataclass(frozen=True)
class Answer:
    """A reply to a request, with everything counted and numbered that the wire needs."""

    request: ChatRequest
    reply: Reply
    dialect: TokenDialect | None = None
    nan_logprobs: bool = False
    """The first log-probability of each choice is NaN, which is no JSON but is sent by real servers."""

    @property
    def created(self) -> int:
        """Unix time in seconds, by the number of the request."""
        return CREATED + self.request.number

    def identifier(self, prefix: str) -> str:
        """Return the id of the answer: *prefix* and the number of the request in six digits."""
        return f"{prefix}{self.request.number:06d}"

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """As many choices as were asked for."""
        return tuple(self._choice(index) for index in range(self.request.choice_count))

    def _choice(self, index: int) -> Choice:
        reply = self.reply
        if index == 0:
            text = reply.text
        elif index <= len(reply.alternatives):
            text = reply.alternatives[index - 1]
        else:
            text = f"{reply.text} ({index})"
        calls = tuple(
            ToolCall(call.name, call.arguments, call.call_id or f"{self.identifier('call_')}_{index + place}")
            for place, call in enumerate(reply.tool_calls)
        )
        finish_reason = reply.finish_reason or ("tool_calls" if calls else "stop")
        return Choice(index, text, reply.reasoning, calls, finish_reason)

    @cached_property
    def prompt_ids(self) -> list[int]:
        """Token ids of the prompt."""
        return ids_of(self.request.prompt_pieces)

    @cached_property
    def usage(self) -> Usage | None:
        """Usage with every number filled in, or None when the reply reports none."""
        asked = self.reply.usage
        if asked is None:
            return None
        prompt, completion = asked.prompt_tokens, asked.completion_tokens
        thinking = len(pieces(self.reply.reasoning))
        return Usage(
            prompt_tokens=len(self.prompt_ids) if prompt is None else prompt,
            completion_tokens=self._counted(asked.reasoning_tokens, thinking) if completion is None else completion,
            cached_tokens=asked.cached_tokens,
            cache_write_tokens=asked.cache_write_tokens,
            reasoning_tokens=asked.reasoning_tokens or thinking,
        )

    def _counted(self, hidden: int, thinking: int) -> int:
        visible = sum(len(choice.token_ids) for choice in self.choices)
        return visible + max(hidden - thinking, 0)


def chat_usage(usage: Usage) -> JsonObject:
    """Return *usage* in the shape of chat completions and completions."""
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    details: JsonObject = {"cached_tokens": usage.cached_tokens, "audio_tokens": 0}
    if usage.cache_write_tokens:
        details["cache_write_tokens"] = usage.cache_write_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }


def logprob_entries(answer: Answer, tokens: list[str], top_count: int, *, first: bool) -> list[Json]:
    """Return the log-probabilities of *tokens* in OpenAI's shape, each with *top_count* candidates.

    *first* says that the list begins the choice, which is where a NaN goes when the server sends one.
    """
    result: list[Json] = []
    for place, token in enumerate(tokens):
        value = math.nan if answer.nan_logprobs and first and place == 0 else logprob(token)
        candidates = [_entry(token, value), _entry(token.upper() + "?", value - 1)][:top_count]
        result.append({**_entry(token, value), "top_logprobs": [*candidates]})
    return result


def _entry(token: str, value: float) -> JsonObject:
    return {"token": token, "logprob": value, "bytes": [*token.encode("utf-8", "surrogatepass")]}


def wants_usage_chunk(request: ChatRequest) -> bool:
    """Return whether a stream ends with a chunk that has the usage."""
    return as_object(request.body.get("stream_options")).get("include_usage") is True
