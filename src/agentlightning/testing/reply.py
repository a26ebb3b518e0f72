"""What the model server answers: a reply, its tool calls and usage, and the ways in which it can go wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.testing.json_value import Json

Fault = Literal["hang", "drop", "half"]
"""A broken transport: ``hang`` sends nothing until the server closes or the client leaves, ``drop`` closes the
connection without an answer, ``half`` announces the whole body, sends half of it and closes."""


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called."""

    name: str
    arguments: Mapping[str, Json] | str = field(default_factory=dict[str, "Json"])
    """A mapping, or the JSON text itself, which need not be valid."""
    call_id: str = ""
    """Empty: the server numbers it, ``call_000001_0``."""

    @property
    def arguments_text(self) -> str:
        """The arguments as JSON text, as they go over the wire."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(dict(self.arguments))


@dataclass(frozen=True)
class Usage:
    """Token counts of a reply; a total that is None is counted by the tokenizer of the test kit."""

    prompt_tokens: int | None = None
    """All prompt tokens, cached ones included."""
    completion_tokens: int | None = None
    """All completion tokens, reasoning included."""
    cached_tokens: int = 0
    """Prompt tokens read from the cache."""
    cache_write_tokens: int = 0
    """Prompt tokens written to the cache; reported only when not 0, as few providers do."""
    reasoning_tokens: int = 0
    """Completion tokens spent on thinking."""


@dataclass(frozen=True)
class Reply:
    """One answer of the model server, or one failure.

    A plain ``Reply("text")`` answers with status 200, counts its own usage and finishes with ``stop``, or with
    ``tool_calls`` when there are any. With ``n > 1`` in the request, choice N has the text
    ``alternatives[N - 1]``, or, where there is none, ``text`` followed by `` (N)``.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    alternatives: tuple[str, ...] = ()
    """Texts of the choices after the first."""
    reasoning: str = ""
    """Thinking, sent as ``reasoning_content`` the way vLLM does; counted as reasoning tokens."""
    finish_reason: str = ""
    usage: Usage | None = field(default_factory=Usage)
    """None: the answer reports no usage at all."""
    status: int = 200
    """Anything else sends an error object whose message is ``text``."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Added to the answer's, for example ``{"Retry-After": "0"}``."""
    delay_s: float = 0.0
    """Wait before the first byte."""
    chunk_delay_s: float = 0.0
    """Wait before each chunk of a stream."""
    break_after_chunks: int | None = None
    """Drop the connection after so many chunks of a stream."""
    fault: Fault | None = None
    malformed: str = ""
    """Sent in place of the body; in a stream, as the data of one event, after which the stream ends in order."""
