"""Requests and answers of Google's ``generateContent`` as attributes; pure. https://ai.google.dev/api/generate-content."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

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
    PROMPT_TOKENS,
    REASONING_TOKENS,
    ToolCall,
    count,
    input_attributes,
    json_text,
    message_attributes,
    output_attributes,
    put_count,
)
from agentlightning.instrumentation.openai_token import field, items

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentlightning.instrumentation.attribute import Attributes
    from agentlightning.types.record import JsonObject

_CONTENT = frozenset({"contents", "systemInstruction", "system_instruction", "tools"})


def question_attributes(body: Mapping[str, object], model: str) -> Attributes:
    """Return what the body of a request to *model* tells."""
    found: Attributes = {semconv.OPENINFERENCE_KIND: "LLM", LLM_SYSTEM: "gemini", **input_attributes(body)}
    found[LLM_MODEL] = model
    found[LLM_INVOCATION] = json_text({key: value for key, value in body.items() if key not in _CONTENT})
    messages: list[tuple[str, object]] = []
    system = body.get("systemInstruction") or body.get("system_instruction")
    if system is not None:
        messages.append(("system", system))
    messages += [(str(field(content, "role") or "user"), content) for content in items(body.get("contents"))]
    for index, (role, content) in enumerate(messages):
        found.update(_message(f"{LLM_INPUT_MESSAGES}.{index}", role, content))
    return found


def answer_attributes(answer: Mapping[str, object]) -> Attributes:
    """Return what an answer tells; thinking counts as output, as it is paid for."""
    found: Attributes = dict(output_attributes(answer))
    if isinstance(answer.get("modelVersion"), str):
        found[LLM_MODEL] = cast("str", answer["modelVersion"])
    if isinstance(answer.get("responseId"), str):
        found["gen_ai.response.id"] = cast("str", answer["responseId"])
    for index, candidate in enumerate(items(answer.get("candidates"))):
        found.update(_message(f"{LLM_OUTPUT_MESSAGES}.{index}", "model", field(candidate, "content")))
        reason = field(candidate, "finishReason")
        if index == 0 and isinstance(reason, str):
            found[LLM_FINISH_REASON] = reason
    usage = answer.get("usageMetadata")
    put_count(found, PROMPT_TOKENS, field(usage, "promptTokenCount"))
    thoughts = count(field(usage, "thoughtsTokenCount"))
    said = count(field(usage, "candidatesTokenCount"))
    if said is not None or thoughts is not None:
        found[COMPLETION_TOKENS] = (said or 0) + (thoughts or 0)
    put_count(found, REASONING_TOKENS, thoughts)
    put_count(found, CACHE_READ_TOKENS, field(usage, "cachedContentTokenCount"))
    return found


class GeminiStream:
    """Puts the chunks of a stream together to one answer."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._head: JsonObject = {}
        self._candidates: dict[int, JsonObject] = {}

    @property
    def is_complete(self) -> bool:
        """Whether a candidate has said why it ended."""
        return any("finishReason" in candidate for candidate in self._candidates.values())

    def add(self, chunk: JsonObject) -> None:
        """Take in a chunk, which has the form of an answer."""
        self._head.update({key: value for key, value in chunk.items() if key != "candidates"})
        for place, candidate in enumerate(items(chunk.get("candidates"))):
            index = field(candidate, "index")
            kept = self._candidates.setdefault(index if isinstance(index, int) else place, {"parts": []})
            kept["parts"] += items(field(field(candidate, "content"), "parts"))
            reason = field(candidate, "finishReason")
            if isinstance(reason, str):
                kept["finishReason"] = reason

    def payload(self) -> JsonObject:
        """Return the answer as far as it came."""
        candidates: list[JsonObject] = []
        for _, kept in sorted(self._candidates.items()):
            rest = {key: value for key, value in kept.items() if key != "parts"}
            candidates.append({"content": {"role": "model", "parts": _joined(kept["parts"])}, **rest})
        return {**self._head, **({"candidates": candidates} if candidates else {})}


def _joined(parts: list[JsonObject]) -> list[JsonObject]:
    """Return the parts with neighbouring texts as one."""
    found: list[JsonObject] = []
    for part in parts:
        text = field(part, "text")
        same = bool(found) and field(found[-1], "thought") == field(part, "thought")
        if isinstance(text, str) and same and isinstance(field(found[-1], "text"), str):
            found[-1] = {**found[-1], "text": found[-1]["text"] + text}
        else:
            found.append(part)
    return found


def _message(prefix: str, role: str, content: object) -> Iterator[tuple[str, str]]:
    parts = items(field(content, "parts"))
    calls: list[ToolCall] = []
    texts: list[str] = []
    for part in parts:
        call, answer, text = field(part, "functionCall"), field(part, "functionResponse"), field(part, "text")
        if call is not None:
            name = field(call, "name")
            calls.append(ToolCall(None, name if isinstance(name, str) else None, field(call, "args")))
        if answer is not None:
            role = "tool"
            texts.append(json_text(field(answer, "response")))
        if isinstance(text, str) and not field(part, "thought"):
            texts.append(text)
    yield from message_attributes(prefix, {"model": "assistant"}.get(role, role), "".join(texts) or None, calls)
