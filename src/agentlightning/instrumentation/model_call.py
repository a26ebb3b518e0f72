"""A call of a model's HTTP API, as it passes: request, answer or stream of events, turned into attributes.

Used by the proxy, which sees it between a program and a server, and at the program's HTTP client. OpenAI's API,
Anthropic's messages and Google's ``generateContent``. One task or thread at a time.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from agentlightning import semconv
from agentlightning.instrumentation import anthropic_message, gemini_message
from agentlightning.instrumentation.openai_message import request_attributes, response_attributes
from agentlightning.instrumentation.openai_output import Output
from agentlightning.instrumentation.openai_token import TokenCollector, may_hold_tokens, without_token_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.instrumentation.attribute import Attributes

NAMES = {
    "/chat/completions": "openai.chat.completion",
    "/completions": "openai.completion",
    "/responses": "openai.response",
    "/embeddings": "openai.embeddings",
    "/messages": "anthropic.messages",
    "generateContent": "gemini.generate_content",
}
"""Ends of the paths that call a model, and the names of their spans."""

FIRST_TOKEN = "First Token Stream Event"  # noqa: S105 - the name that OpenInference gives the event
FIRST_ERROR = 400
MAX_ERROR_CHARS = 2000
_MAX_KEPT_BYTES = 64 * 2**20
"""Of a longer answer the beginning is recorded."""
_NEEDS = {
    "/chat/completions": ("messages",),
    "/completions": ("prompt",),
    "/responses": ("model",),
    "/embeddings": ("input",),
    "/messages": ("messages", "model", "max_tokens"),
    "generateContent": ("contents",),
}
_GEMINI = re.compile(r"/models/([^/:]+):(?:generateContent|streamGenerateContent)$")


def api_of(path: str, body: Mapping[str, object]) -> str | None:
    """Return the key of ``NAMES`` for a request that looks like a model's API, by the end of its path and its body."""
    found = "generateContent" if _GEMINI.search(path) else None
    if found is None:
        found = next((end for end in NAMES if path.endswith(end) and end[0] == "/"), None)
    return found if found is not None and all(name in body for name in _NEEDS[found]) else None


class Answered(NamedTuple):
    """What an answer came to."""

    attributes: Attributes
    error: str
    """Why it is none that can be used: a refusal, or no JSON; empty where all is well."""


class ModelCall:
    """Gathers what passes. Methods raise what a strange body makes them raise: call them under a guard."""

    def __init__(self, api: str, path: str = "") -> None:
        """Begin a call of *api*, a key of ``NAMES``; *path* has the model's name where the body has not."""
        self.name = NAMES[api]
        self._api = api
        self._path = path
        self._kept: list[bytes] = []
        self._size = 0
        self._lines = b""
        self._encoding = ""
        self._unzip: Any = None
        self._output = Output()
        self._stream: anthropic_message.AnthropicStream | gemini_message.GeminiStream | None = None
        if self._api == "/messages":
            self._stream = anthropic_message.AnthropicStream()
        elif self._api == "generateContent":
            self._stream = gemini_message.GeminiStream()
        self._tokens = TokenCollector()
        self._ended = False
        self._status = 0
        self.is_stream = False
        """Whether the answer comes in server-sent events."""

    @property
    def is_complete(self) -> bool:
        """Whether a stream has said that it is over."""
        return self._ended or (isinstance(self._stream, gemini_message.GeminiStream) and self._stream.is_complete)

    def asked(self, body: Mapping[str, object]) -> Attributes:
        """Return what the request tells."""
        if self._api == "/messages":
            return anthropic_message.question_attributes(body)
        if self._api == "generateContent":
            match = _GEMINI.search(self._path)
            return gemini_message.question_attributes(body, match[1] if match else "")
        return request_attributes(self._api, body)

    def began(self, status: int, content_type: str, encoding: str = "") -> None:
        """Note the beginning of the answer; *encoding* is how its bytes are compressed, where they are."""
        self._status = status
        self.is_stream = content_type.startswith("text/event-stream")
        self._encoding = encoding if encoding != "identity" else ""
        if self.is_stream and self._encoding in {"gzip", "deflate"}:
            self._unzip = zlib.decompressobj(47)  # either header

    def passed(self, chunk: bytes) -> None:
        """Look at a part of the answer."""
        if self.is_stream and (self._unzip or not self._encoding):
            self._read_events(self._unzip.decompress(chunk) if self._unzip else chunk)
        elif self._size < _MAX_KEPT_BYTES:
            self._kept.append(chunk)
            self._size += len(chunk)

    def answered(self) -> Answered:
        """Return what the answer tells, as far as it came."""
        payload: object
        if self.is_stream:
            payload = self._stream.payload() if self._stream is not None else self._output.payload()
        else:
            body = _plain(b"".join(self._kept), self._encoding)
            payload = _decoded(body)
            if may_hold_tokens(body):
                self._tokens.add(payload)
        if self._status >= FIRST_ERROR or not isinstance(payload, dict):
            text = b"".join(self._kept)[:MAX_ERROR_CHARS].decode("utf-8", "replace")
            error = "the answer is no JSON" if self._status < FIRST_ERROR else f"status {self._status}: {text[:500]}"
            return Answered({semconv.OUTPUT_VALUE: text} if text else {}, error)
        answer = cast("dict[str, object]", payload)
        if self._api == "/messages":
            return Answered(anthropic_message.answer_attributes(answer), "")
        if self._api == "generateContent":
            return Answered(gemini_message.answer_attributes(answer), "")
        shorter = without_token_fields(dict(answer), logprobs=self._tokens.has_logprobs)
        found = response_attributes(cast("dict[str, object]", shorter))
        return Answered({**found, **self._tokens.attributes()}, "")

    def _read_events(self, chunk: bytes) -> None:
        """Take in the whole lines of a stream of server-sent events."""
        *lines, self._lines = (self._lines + chunk).split(b"\n")
        for line in lines:
            data = line.strip()
            if not data.startswith(b"data:"):
                continue
            text = data[5:].strip()
            if text == b"[DONE]":
                self._ended = True
                continue
            part = cast("object", json.loads(text))
            if isinstance(part, dict):
                self._take(cast("dict[str, object]", part), text)

    def _take(self, part: dict[str, object], text: bytes) -> None:
        if self._stream is not None:
            self._stream.add(part)
            self._ended = self._ended or part.get("type") == "message_stop"
            return
        if may_hold_tokens(text):
            self._tokens.add(part)
        self._output.add(part)
        if part.get("type") in {"response.completed", "response.incomplete", "response.failed"}:
            self._ended = True


def _plain(body: bytes, encoding: str) -> bytes:
    """Return *body* without its compression; nothing where it is broken."""
    if encoding not in {"gzip", "deflate"}:
        return body
    try:
        return zlib.decompress(body, 47)
    except zlib.error:
        return b""


def _decoded(body: bytes) -> object:
    try:
        return cast("object", json.loads(body))
    except (ValueError, RecursionError):
        return None
