"""One call that went through the proxy, as a span."""

from __future__ import annotations

import json
import time
import zlib
from typing import TYPE_CHECKING, Any, cast

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning._internal.ids import implicit_ids, new_span_id, new_trace_id, process_key
from agentlightning.instrumentation.openai_message import request_attributes, response_attributes
from agentlightning.instrumentation.openai_output import Output
from agentlightning.instrumentation.openai_token import TokenCollector, without_token_fields
from agentlightning.server.proxy.anthropic import AnthropicStream, answer_attributes, question_attributes
from agentlightning.server.proxy.backend import ANTHROPIC_PATHS
from agentlightning.types.record import EventRecord, ResourceRecord, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

SCOPE = "agentlightning.server.proxy"
NAMES = {
    "/chat/completions": "openai.chat.completion",
    "/completions": "openai.completion",
    "/responses": "openai.response",
    "/embeddings": "openai.embeddings",
    "/messages": "anthropic.messages",
}
"""Paths below ``/v1`` that call a model, and the names of their spans."""

_RESOURCE = ResourceRecord({"service.name": "agentlightning-proxy"})
_MAX_ERROR_CHARS = 2000
_MAX_KEPT_BYTES = 64 * 2**20
"""Of a longer answer the beginning is recorded; it is passed on whole."""


class RecordedCall:
    """Gathers what passes; raises nothing. One task at a time."""

    def __init__(self, path: str, body: Mapping[str, object], ids: tuple[str, str] | None, traceparent: str) -> None:
        """Begin a call of *path* with *body*; it belongs to the rollout and attempt *ids*, or to none that is known."""
        trace_id, parent_id = _context(traceparent)
        rollout_id, attempt_id = ids or implicit_ids(trace_id)
        self.record = SpanRecord(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            counter=0,
            trace_id=trace_id,
            span_id=f"{new_span_id():016x}",
            parent_id=parent_id,
            name=NAMES[path],
            kind="CLIENT",
            start_ns=time.time_ns(),
            resource=_RESOURCE,
            scope_name=SCOPE,
            process=process_key(),
        )
        self._path = path
        self._is_anthropic = path in ANTHROPIC_PATHS
        self._kept: list[bytes] = []
        self._size = 0
        self._lines = b""
        self.is_stream = False
        """Whether the answer comes in server-sent events."""
        self._encoding = ""
        self._output = Output()
        self._anthropic = AnthropicStream()
        self._tokens = TokenCollector()
        self._is_complete = False
        with guard("proxy.request"):
            asked = question_attributes(body) if self._is_anthropic else request_attributes(path, body)
            self.record.attributes.update(asked)

    def tried(self, endpoint: str, problem: str) -> None:
        """Note a backend that gave no answer, or one that was not taken."""
        attributes = {"server.address": endpoint, "error.message": problem[:_MAX_ERROR_CHARS]}
        self.record.events.append(EventRecord("agentlightning.proxy.retry", time.time_ns(), attributes))

    def began(self, endpoint: str, status: int, headers: Mapping[str, str]) -> None:
        """Note the beginning of the answer that the program gets."""
        self.record.attributes["server.address"] = endpoint
        self.record.attributes["http.response.status_code"] = status
        self.is_stream = headers.get("content-type", "").startswith("text/event-stream")
        self._encoding = headers.get("content-encoding", "")

    def passed(self, chunk: bytes) -> None:
        """Look at a part of the answer."""
        if self.is_stream and not self._encoding:
            with guard("proxy.chunk"):
                self._read_events(chunk)
        elif self._size < _MAX_KEPT_BYTES:
            self._kept.append(chunk)
            self._size += len(chunk)

    def is_last(self, chunk: bytes) -> bool:
        """Whether the program may take *chunk* for the end of a stream: it waits until the span is durable."""
        return self.is_stream and any(mark in chunk for mark in _LAST)

    def ended(self, problem: str = "", *, gone: bool = False) -> SpanRecord:
        """Return the span: with *problem* when there was no whole answer, or *gone* when the program left."""
        record = self.record
        status = cast("int", record.attributes.get("http.response.status_code", 0))
        record.status_code = "OK" if not problem and status < _FIRST_ERROR else "ERROR"
        if problem:
            record.status_description = problem[:_MAX_ERROR_CHARS]
        with guard("proxy.answer"):
            self._write_answer(status)
        if self.is_stream and not self._is_complete:
            record.attributes[semconv.STREAM_STATE] = "closed_early" if gone else "failed"
        record.end_ns = max(time.time_ns(), record.start_ns)
        return record

    def _read_events(self, chunk: bytes) -> None:
        """Take in the whole lines of a stream of server-sent events."""
        if not self.record.events or self.record.events[-1].name != _FIRST_TOKEN:
            self.record.events.append(EventRecord(_FIRST_TOKEN, time.time_ns()))
        *lines, self._lines = (self._lines + chunk).split(b"\n")
        for line in lines:
            data = line.strip()
            if not data.startswith(b"data:"):
                continue
            text = data[5:].strip()
            if text == b"[DONE]":
                self._is_complete = True
                continue
            part = cast("object", json.loads(text))
            if isinstance(part, dict):
                self._take(cast("dict[str, object]", part))

    def _take(self, part: dict[str, object]) -> None:
        if self._is_anthropic:
            self._anthropic.add(part)
            self._is_complete = self._is_complete or part.get("type") == "message_stop"
            return
        self._tokens.add(part)
        self._output.add(part)
        if part.get("type") in {"response.completed", "response.incomplete", "response.failed"}:
            self._is_complete = True

    def _write_answer(self, status: int) -> None:
        if self.is_stream:
            payload = self._anthropic.payload() if self._is_anthropic else self._output.payload()
        else:
            payload = _decoded(b"".join(self._kept), self._encoding)
            self._tokens.add(payload)
        if status >= _FIRST_ERROR or not isinstance(payload, dict):
            self._write_text(status)
            return
        answer = cast("dict[str, Any]", payload)
        if self._is_anthropic:
            self.record.attributes.update(answer_attributes(answer))
            return
        shorter = without_token_fields(dict(answer), logprobs=self._tokens.has_logprobs)
        self.record.attributes.update(response_attributes(cast("dict[str, object]", shorter)))
        self.record.attributes.update(self._tokens.attributes())

    def _write_text(self, status: int) -> None:
        """Record an answer that is an error, or nothing that can be read."""
        record = self.record
        text = b"".join(self._kept)[:_MAX_ERROR_CHARS].decode("utf-8", "replace")
        if text:
            record.attributes[semconv.OUTPUT_VALUE] = text
        if record.status_description is None:
            is_error = status >= _FIRST_ERROR
            record.status_code = "ERROR"
            record.status_description = f"status {status}: {text[:500]}" if is_error else "the answer is no JSON"


_FIRST_TOKEN = "First Token Stream Event"  # noqa: S105 - the name that OpenInference gives the event
_FIRST_ERROR = 400
_LAST = (
    b"data: [DONE]", b"event: response.completed", b"event: response.failed", b"event: response.incomplete",
    b"event: message_stop",
)  # fmt: skip


def _context(traceparent: str) -> tuple[str, str | None]:
    """Return trace and parent of a W3C ``traceparent``; a new trace where there is none."""
    parts = traceparent.strip().lower().split("-")
    if len(parts) >= 4 and len(parts[1]) == 32 and len(parts[2]) == 16:  # noqa: PLR2004 - lengths of the ids
        try:
            if int(parts[1], 16) and int(parts[2], 16):
                return parts[1], parts[2]
        except ValueError:
            pass
    return f"{new_trace_id():032x}", None


def _decoded(body: bytes, encoding: str) -> object:
    try:
        if encoding in {"gzip", "deflate"}:
            body = zlib.decompress(body, 47)  # either header
        return cast("object", json.loads(body))
    except (ValueError, zlib.error, RecursionError):
        return None
