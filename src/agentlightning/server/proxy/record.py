"""One call that went through the proxy, as a span."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning._internal.ids import implicit_ids, new_span_id, new_trace_id
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

    from agentlightning.types.record import AttributeMap

SCOPE = "agentlightning.server.proxy"
NAMES = {path: name for path, name in _ALL_NAMES.items() if path.startswith("/")}
"""Paths below ``/v1`` that call a model, and the names of their spans."""

_RESOURCE = ResourceRecord({"service.name": "agentlightning-proxy"})


class RecordedCall:
    """Gathers what passes; raises nothing.

    The event loop notes (``tried``, ``began``, ``passed``, ``ended``), and the thread of the sink makes the span of it
    (``question``, ``answer``): what passes is not kept waiting by what is made of it.
    """

    def __init__(
        self, path: str, body: Mapping[str, object], ids: tuple[str, str] | None, traceparent: str, process: str
    ) -> None:
        """Begin a call of *path* with *body*, passed on by *process*.

        It belongs to the rollout and attempt *ids*, or to none that is known.
        """
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
            process=process,
        )
        """Belongs to the sink; the loop only adds events, and never after the end."""
        self.is_stream = False
        """Whether the answer comes in server-sent events."""
        self.has_ended = False
        self.asked: AttributeMap | None = None
        """What was asked, redacted; the sink's."""
        self._call = ModelCall(path)
        self._body: Mapping[str, object] | None = body
        self._head: tuple[str, int, str, str] | None = None
        """The backend; status, type and encoding of its answer."""
        self._has_begun = False
        self._parts: deque[bytes] = deque()
        """What the sink has not looked at; filled by the loop, emptied by the sink."""
        self._part_bytes, self._look_at = 0, _LOOK_BYTES
        self._end = b"\n"
        """The last bytes of the stream so far: what says that it is over may come in two parts."""
        self._problem = ""
        self._is_gone = False
        self._end_ns = 0

    # What the event loop calls.

    def tried(self, endpoint: str, problem: str) -> None:
        """Note a backend that gave no answer, or one that was not taken."""
        attributes = {"server.address": endpoint, "error.message": problem[:MAX_ERROR_CHARS]}
        self.record.events.append(EventRecord("agentlightning.proxy.retry", time.time_ns(), attributes))

    def began(self, endpoint: str, status: int, headers: Mapping[str, str]) -> None:
        """Note the beginning of the answer that the program gets."""
        content_type = headers.get("content-type", "")
        self.is_stream = content_type.startswith("text/event-stream")
        self._head = (endpoint, status, content_type, headers.get("content-encoding", ""))

    def split(self, held: bytes, part: bytes) -> tuple[bytes, bytes]:
        """Return what is passed on now and what waits until the span is durable, of what waits already and *part*."""
        if not self.is_stream:
            return held, part
        if held:
            return b"", held + part
        seen = self._end + part
        found = _OVER.search(seen)
        place = len(part) if found is None else max(0, found.start() + 1 - len(self._end))
        self._end = seen[-_LONGEST_END:]
        return part[:place], part[place:]

    def passed(self, part: bytes) -> bool:
        """Take a part of the answer; tell whether there is so much of a stream that it is time for a look."""
        if self.is_stream and not self._part_bytes:
            self.record.events.append(EventRecord(FIRST_TOKEN, time.time_ns()))
        self._part_bytes += len(part)
        if self.is_stream or self._part_bytes <= _MOST_KEPT_BYTES:
            self._parts.append(part)
        if not self.is_stream or self._part_bytes < self._look_at:
            return False
        self._look_at = self._part_bytes + _LOOK_BYTES
        return True

    def ended(self, problem: str = "", *, gone: bool = False) -> None:
        """Note the end: with *problem* when there was no whole answer, or *gone* when the program left."""
        self._problem = problem[:MAX_ERROR_CHARS]
        self._is_gone = gone
        self._end_ns = max(time.time_ns(), self.record.start_ns)
        self.has_ended = True

    # What the sink calls.

    def question(self) -> SpanRecord | None:
        """Return the span with what was asked as its attributes; None when that was done before."""
        body, self._body = self._body, None
        if body is None:
            return None
        with guard("proxy.request"):
            self.record.attributes = dict(self._call.asked(body))
        return self.record

    def look(self) -> None:
        """Read what has passed so far."""
        if self._head is not None and not self._has_begun:
            self._has_begun = True
            self._call.began(*self._head[1:])
        parts = b"".join([self._parts.popleft() for _ in range(len(self._parts))])
        if parts:
            with guard("proxy.chunk"):
                self._call.passed(parts)

    def answer(self) -> SpanRecord:
        """Return the span with what was answered as its attributes, in place of what was asked; after its end."""
        record = self.record
        record.attributes = {}
        self.look()
        status = 0
        if self._head is not None:
            endpoint, status = self._head[:2]
            record.attributes = {"server.address": endpoint, "http.response.status_code": status}
        problem = self._problem
        record.status_code = "OK" if not problem and status < FIRST_ERROR else "ERROR"
        record.status_description = problem or None
        with guard("proxy.answer"):
            attributes, error = self._call.answered()
            record.attributes.update(attributes)
            if error:
                record.status_code = "ERROR"
                record.status_description = problem or error
        if self.is_stream and not self._call.is_complete:
            record.attributes[semconv.STREAM_STATE] = "closed_early" if self._is_gone else "failed"
        record.end_ns = self._end_ns
        return record


_OVER = re.compile(rb"\n(?:data: ?\[DONE\]|event: ?(?:response\.(?:completed|failed|incomplete)|message_stop))")
"""What programs take for the end of a stream; no line of JSON begins so."""
_LONGEST_END = 32
_LOOK_BYTES = 2**14
"""So much of a stream is looked at together, some tens of events, and at most that much when it is over."""
_MOST_KEPT_BYTES = 64 * 2**20
"""Of a longer answer that is no stream the beginning is recorded."""


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
