"""Requests and answers of Anthropic's messages API as attributes; pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from agentlightning import semconv
from agentlightning.instrumentation.attribute import (
    CACHE_READ_TOKENS,
    COMPLETION_TOKENS,
    LLM_INVOCATION,
    LLM_MODEL,
    LLM_SYSTEM,
    PROMPT_TOKENS,
    input_attributes,
    json_text,
    output_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.instrumentation.attribute import Attributes
    from agentlightning.types.record import JsonObject

_CONTENT = frozenset({"messages", "system", "tools"})
_RESPONSE_ID = "gen_ai.response.id"
_CACHE_WRITE = CACHE_READ_TOKENS.replace("_read", "_write")


def question_attributes(body: Mapping[str, object]) -> Attributes:
    """Return what the body of a request tells."""
    found: Attributes = {semconv.OPENINFERENCE_KIND: "LLM", LLM_SYSTEM: "anthropic", **input_attributes(body)}
    if isinstance(body.get("model"), str):
        found[LLM_MODEL] = cast("str", body["model"])
    found[LLM_INVOCATION] = json_text({key: value for key, value in body.items() if key not in _CONTENT})
    return found


def answer_attributes(answer: Mapping[str, object]) -> Attributes:
    """Return what an answer tells; the prompt tokens include those of the cache, as OpenInference counts."""
    found: Attributes = dict(output_attributes(answer))
    if isinstance(answer.get("model"), str):
        found[LLM_MODEL] = cast("str", answer["model"])
    if isinstance(answer.get("id"), str):
        found[_RESPONSE_ID] = cast("str", answer["id"])
    usage = answer.get("usage")
    if isinstance(usage, dict):
        counts = {key: value for key, value in cast("dict[str, object]", usage).items() if type(value) is int}
        read, write = counts.get("cache_read_input_tokens", 0), counts.get("cache_creation_input_tokens", 0)
        if "input_tokens" in counts:
            found[PROMPT_TOKENS] = counts["input_tokens"] + read + write
        if "output_tokens" in counts:
            found[COMPLETION_TOKENS] = counts["output_tokens"]
        if read:
            found[CACHE_READ_TOKENS] = read
        if write:
            found[_CACHE_WRITE] = write
    return found


class AnthropicStream:
    """Puts the events of a stream together to the message that they are parts of."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._message: JsonObject = {}
        self._blocks: dict[int, JsonObject] = {}
        self._json: dict[int, list[str]] = {}

    def add(self, event: JsonObject) -> None:
        """Take in an event; https://docs.anthropic.com/en/api/messages-streaming."""
        kind = event.get("type")
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._message = dict(event["message"])
        elif kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            self._blocks[_index(event)] = dict(event["content_block"])
        elif kind == "content_block_delta" and isinstance(event.get("delta"), dict):
            self._add_delta(_index(event), event["delta"])
        elif kind == "message_delta":
            self._message.update(event.get("delta") or {})
            usage = event.get("usage")
            if isinstance(usage, dict):
                self._message["usage"] = {**(self._message.get("usage") or {}), **cast("JsonObject", usage)}

    def _add_delta(self, index: int, delta: JsonObject) -> None:
        block = self._blocks.setdefault(index, {"type": "text"})
        for name in ("text", "thinking", "signature"):
            if isinstance(delta.get(name), str):
                block[name] = block.get(name, "") + delta[name]
        if isinstance(delta.get("partial_json"), str):
            self._json.setdefault(index, []).append(delta["partial_json"])

    def payload(self) -> JsonObject:
        """Return the message as far as it came."""
        if not self._message:
            return {}
        for index, parts in self._json.items():
            text = "".join(parts)
            try:
                self._blocks[index]["input"] = json.loads(text) if text else {}
            except ValueError:
                self._blocks[index]["input"] = text
        return {**self._message, "content": [self._blocks[index] for index in sorted(self._blocks)]}


def _index(event: JsonObject) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0
