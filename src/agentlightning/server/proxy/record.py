"""One call that went through the proxy, as a span."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning._internal.ids import implicit_ids, new_span_id, new_trace_id, process_key
from agentlightning.instrumentation.model_call import (
    FIRST_ERROR,
    FIRST_TOKEN,
    MAX_ERROR_CHARS,
    ModelCall,
)
from agentlightning.instrumentation.model_call import NAMES as _ALL_NAMES
from agentlightning.types.record import EventRecord, ResourceRecord, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

SCOPE = "agentlightning.server.proxy"
NAMES = {path: name for path, name in _ALL_NAMES.items() if path.startswith("/")}
"""Paths below ``/v1`` that call a model, and the names of their spans."""

_RESOURCE = ResourceRecord({"service.name": "agentlightning-proxy"})


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
        self._call = ModelCall(path)
        self._body = body

    def describe(self) -> None:
        """Write down what was asked; there is time for it while the backend works."""
        with guard("proxy.request"):
            self.record.attributes.update(self._call.asked(self._body))

    @property
    def is_stream(self) -> bool:
        """Whether the answer comes in server-sent events."""
        return self._call.is_stream

    def tried(self, endpoint: str, problem: str) -> None:
        """Note a backend that gave no answer, or one that was not taken."""
        attributes = {"server.address": endpoint, "error.message": problem[:MAX_ERROR_CHARS]}
        self.record.events.append(EventRecord("agentlightning.proxy.retry", time.time_ns(), attributes))

    def began(self, endpoint: str, status: int, headers: Mapping[str, str]) -> None:
        """Note the beginning of the answer that the program gets."""
        self.record.attributes["server.address"] = endpoint
        self.record.attributes["http.response.status_code"] = status
        self._call.began(status, headers.get("content-type", ""), headers.get("content-encoding", ""))

    def passed(self, chunk: bytes) -> None:
        """Look at a part of the answer."""
        if self.is_stream and (not self.record.events or self.record.events[-1].name != FIRST_TOKEN):
            self.record.events.append(EventRecord(FIRST_TOKEN, time.time_ns()))
        with guard("proxy.chunk"):
            self._call.passed(chunk)

    def is_last(self, chunk: bytes) -> bool:
        """Whether the program may take *chunk* for the end of a stream: it waits until the span is durable."""
        return self.is_stream and any(mark in chunk for mark in _LAST)

    def ended(self, problem: str = "", *, gone: bool = False) -> SpanRecord:
        """Return the span: with *problem* when there was no whole answer, or *gone* when the program left."""
        record = self.record
        status = cast("int", record.attributes.get("http.response.status_code", 0))
        record.status_code = "OK" if not problem and status < FIRST_ERROR else "ERROR"
        if problem:
            record.status_description = problem[:MAX_ERROR_CHARS]
        with guard("proxy.answer"):
            self._write_answer()
        if self.is_stream and not self._call.is_complete:
            record.attributes[semconv.STREAM_STATE] = "closed_early" if gone else "failed"
        record.end_ns = max(time.time_ns(), record.start_ns)
        return record

    def _write_answer(self) -> None:
        attributes, error = self._call.answered()
        self.record.attributes.update(attributes)
        if error:
            self.record.status_code = "ERROR"
            self.record.status_description = self.record.status_description or error


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
