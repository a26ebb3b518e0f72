"""Puts the chunks of a stream of the OpenAI API together to the answer that they are parts of.

Chat completions, completions and responses; what comes out is plain data in the form of the whole answer, as far as
the stream came. Text pieces are joined once at the end. Pure: nothing here needs the library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agentlightning.instrumentation.openai_token import field, items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Payload = dict[str, object]
"""An answer as plain data."""

_DELTAS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.function_call_arguments.delta": "arguments",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "summary",
}
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


def plain(value: object) -> object:
    """Return a model of pydantic 1 or 2 as plain data, with what the server sent only; anything else as it is."""
    dump: Callable[..., object] | None = getattr(value, "model_dump", None)
    if dump is not None:
        # Servers send what the types do not foresee, which pydantic would warn about on the user's stderr.
        return dump(exclude_unset=True, warnings=False)
    old: Callable[..., object] | None = getattr(value, "dict", None)
    return value if old is None else old(exclude_unset=True)


class Output:
    """The answer of one stream, put together as its parts come."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._head: Payload = {}
        self._choices: dict[int, _Choice] = {}
        self._items: dict[int, _Item] = {}
        self._whole: object = None

    def add(self, part: object) -> None:
        """Take in a chunk of chat completions or completions, or an event of a response."""
        kind = field(part, "type")
        if isinstance(kind, str) and kind.startswith("response."):
            self._add_event(kind, part)
            return
        for name in ("id", "model", "object", "created"):
            value = field(part, name)
            if value is not None and name not in self._head:
                self._head[name] = value
        usage = field(part, "usage")
        if usage is not None:
            self._head["usage"] = plain(usage)
        for place, choice in enumerate(items(field(part, "choices"))):
            index = field(choice, "index")
            self._choices.setdefault(index if isinstance(index, int) else place, _Choice()).add(choice)

    def payload(self) -> Payload:
        """Return the answer as far as it came; empty when nothing came."""
        if self._whole is not None:
            return cast("Payload", plain(self._whole))
        found = dict(self._head)
        if self._choices:
            found["choices"] = [choice.payload(index) for index, choice in sorted(self._choices.items())]
        if self._items:
            found["output"] = [item.payload() for _, item in sorted(self._items.items())]
        return found

    def _add_event(self, kind: str, event: object) -> None:
        response = field(event, "response")
        if response is not None:
            if kind in {"response.completed", "response.incomplete", "response.failed"}:
                self._whole = response
            else:
                self._head = {name: field(response, name) for name in ("id", "model", "object", "status")}
            return
        index = field(event, "output_index")
        if not isinstance(index, int):
            return
        item = self._items.setdefault(index, _Item())
        if kind in {"response.output_item.added", "response.output_item.done"}:
            item.whole = field(event, "item")
            item.is_done = kind.endswith(".done")
        elif kind in _DELTAS:
            item.add(_DELTAS[kind], field(event, "delta"))


class _Choice:
    """One choice of a chat completion or completion."""

    def __init__(self) -> None:
        self._role: str | None = None
        self._finish_reason: str | None = None
        self._text: list[str] = []
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, _Call] = {}

    def add(self, choice: object) -> None:
        """Take in this choice's part of a chunk."""
        self._finish_reason = field(choice, "finish_reason") or self._finish_reason
        text = field(choice, "text")
        if isinstance(text, str):
            self._text.append(text)
        delta = field(choice, "delta")
        if delta is None:
            return
        self._role = field(delta, "role") or self._role
        for name in _TEXTS:
            piece = field(delta, name)
            if isinstance(piece, str) and piece:
                self._texts.setdefault(name, []).append(piece)
        for place, call in enumerate(items(field(delta, "tool_calls"))):
            index = field(call, "index")
            self._calls.setdefault(index if isinstance(index, int) else place, _Call()).add(call)
        function = field(delta, "function_call")
        if function is not None:
            self._calls.setdefault(0, _Call()).add({"function": function})

    def payload(self, index: int) -> Payload:
        """Return the choice as plain data."""
        found: Payload = {"index": index, "finish_reason": self._finish_reason}
        if self._text:
            return {**found, "text": "".join(self._text)}
        message: Payload = {"role": self._role or "assistant", **_joined(self._texts)}
        if self._calls:
            message["tool_calls"] = [call.payload() for _, call in sorted(self._calls.items())]
        return {**found, "message": message}


class _Call:
    """One tool call of a choice."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._name: list[str] = []
        self._arguments: list[str] = []

    def add(self, call: object) -> None:
        """Take in the next piece."""
        self._id = field(call, "id") or self._id
        function = field(call, "function")
        for name, pieces in (("name", self._name), ("arguments", self._arguments)):
            piece = field(function, name)
            if isinstance(piece, str):
                pieces.append(piece)

    def payload(self) -> Payload:
        """Return the call as plain data."""
        function = {"name": "".join(self._name), "arguments": "".join(self._arguments)}
        return {"id": self._id, "type": "function", "function": function}


class _Item:
    """One item of a response's output."""

    def __init__(self) -> None:
        self.whole: object = None
        self.is_done = False
        self._texts: dict[str, list[str]] = {}

    def add(self, name: str, piece: object) -> None:
        """Take in the next piece of one of its texts."""
        if isinstance(piece, str):
            self._texts.setdefault(name, []).append(piece)

    def payload(self) -> Payload:
        """Return the item as plain data: whole when it was sent whole, else with the texts so far."""
        found = dict(cast("Payload", plain(self.whole) or {}))
        if self.is_done:
            return found
        texts = _joined(self._texts)
        if "arguments" in texts:
            found["arguments"] = texts["arguments"]
        parts: list[Payload] = []
        if "text" in texts:
            parts.append({"type": "output_text", "text": texts["text"]})
        if "refusal" in texts:
            parts.append({"type": "refusal", "refusal": texts["refusal"]})
        if "reasoning" in texts:
            parts.append({"type": "reasoning_text", "text": texts["reasoning"]})
        if parts:
            found["content"] = parts
        if "summary" in texts:
            found["summary"] = [{"type": "summary_text", "text": texts["summary"]}]
        return found


def _joined(texts: dict[str, list[str]]) -> dict[str, str]:
    return {name: "".join(cast("Iterable[str]", pieces)) for name, pieces in texts.items()}
