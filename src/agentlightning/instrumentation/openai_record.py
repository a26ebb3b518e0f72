"""A request of the OpenAI client as a span of our own: releases below 2.8, and ``with_streaming_response`` on all.

OpenInference refuses the former, and reads the whole body of the latter before the program gets to see any of it.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning.instrumentation.attribute import RESERVE, room
from agentlightning.instrumentation.enclosing import enclosing_context
from agentlightning.instrumentation.openai_call import Call, is_stream, parsed_now
from agentlightning.instrumentation.openai_message import request_attributes, response_attributes
from agentlightning.instrumentation.openai_output import plain
from agentlightning.instrumentation.openai_token import without_token_fields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Tracer

    from agentlightning.instrumentation.openai_call import Request

_NAMES = {
    "/chat/completions": "ChatCompletion",
    "/completions": "Completion",
    "/responses": "Response",
    "/embeddings": "CreateEmbeddings",
}
"""Names of spans, those of OpenInference."""


class RecordedCall(Call):
    """A request with a span of our own, from the request to the end of its answer."""

    def __init__(self, span: Span, request: Request) -> None:
        """Record *request* into *span*, which has started."""
        super().__init__()
        self.span = span
        self._request = request
        self._body: _Body | None = None
        self._has_started = False

    def received(self, result: object) -> Callable[[], Awaitable[object]] | None:
        """Look at the answer on its way to the user; what comes back is to be awaited, and its result received."""
        if self._request.raw == "stream":
            return self._received_unread(result)
        answer = result
        if self._request.raw and self._request.body.get("stream"):
            answer = parsed_now(result)
        elif self._request.raw:
            answer = _json_body(getattr(result, "http_response", None))
        self.take(answer)
        return None

    def _received_unread(self, result: Any) -> Callable[[], Awaitable[object]] | None:  # noqa: ANN401 - an API response
        """Follow an answer whose body the user will read, or not."""
        if not self._request.body.get("stream"):
            self._body = _Body(result.http_response, self._body_done)
            return None
        if inspect.iscoroutinefunction(result.parse):
            return result.parse  # does not read a stream, only makes it
        self.take(result.parse())
        return None

    def take(self, answer: object) -> None:
        """Follow a stream, or write a whole answer."""
        if is_stream(answer):
            self.watch_stream(answer)
            return
        self.tokens.add(answer)
        payload = plain(answer)
        self.finish(cast("Mapping[str, object]", payload) if isinstance(payload, dict) else {})

    def _body_done(self, response: object) -> None:
        payload = _json_body(response)
        if payload is not None:
            self.tokens.add(payload)
        self.finish(cast("Mapping[str, object]", payload) if isinstance(payload, dict) else {})

    def item(self, item: object) -> None:
        """Take in a chunk; the first one is an event, the one that OpenInference writes."""
        if not self._has_started:
            self._has_started = True
            self.span.add_event("First Token Stream Event")
        super().item(item)

    def dropped(self) -> None:
        """Note that the stream is gone, and leave the rest to a better moment.

        The garbage collector may run anywhere, also inside the code that takes spans, with its locks held.
        """
        if self.state is None:
            self.state = "closed_early"
            _dropped.append((self, time.time_ns()))

    def settled(self, error: BaseException | None) -> None:
        """End the span of a stream."""
        if error is not None:
            self.span.record_exception(error)
        self.finish(self.output.payload(), error)

    def fail(self, error: BaseException) -> None:
        """End the span of a request that got no answer."""
        self.span.record_exception(error)
        self.finish({}, error)

    def finish(
        self, payload: Mapping[str, object], error: BaseException | None = None, end_ns: int | None = None
    ) -> None:
        """End the span with what is known of the answer; *end_ns* where it ended before now."""
        span = self.span
        if not span.is_recording():
            return
        status = Status(StatusCode.OK) if error is None else error_status(error)
        try:
            if payload:
                shorter = without_token_fields(dict(payload), logprobs=self.tokens.has_logprobs)
                span.set_attributes(response_attributes(cast("dict[str, object]", shorter)))
            if self.is_stream and self.state not in {None, "complete"}:
                span.set_attribute(semconv.STREAM_STATE, str(self.state))
            span.set_attributes(self.tokens.attributes())
            span.set_status(status)
        finally:
            span.end(end_ns)


_dropped: deque[tuple[RecordedCall, int]] = deque()
"""Calls whose stream was dropped halfway, and when."""


def end_dropped() -> None:
    """End the spans of streams that were dropped since; called with the next request, and at the end of the program."""
    while _dropped:
        with contextlib.suppress(IndexError):  # another thread was faster
            call, end_ns = _dropped.popleft()
            with guard("openai.dropped"):
                call.finish(call.output.payload(), end_ns=end_ns)


atexit.register(end_dropped)


class _Body:
    """Notices when the body of an unread answer was read or given up."""

    def __init__(self, response: Any, done: Callable[[object], None]) -> None:  # noqa: ANN401 - of httpx or httpx2
        self._response = response
        self._done = done
        self._is_reading = False
        read, aread, close, aclose = response.read, response.aread, response.close, response.aclose

        def reading() -> bytes:
            """Read the body, and note that the library does."""
            with self._reading():
                return read()

        async def areading() -> bytes:
            """As ``reading``, for the async client."""
            with self._reading():
                return await aread()

        def closing() -> None:
            """Close the answer, and note that no more of it will be read."""
            close()
            self._closed()

        async def aclosing() -> None:
            """As ``closing``, for the async client."""
            await aclose()
            self._closed()

        self._ours = {"read": reading, "aread": areading, "close": closing, "aclose": aclosing}
        self._attributes = cast("dict[str, object]", vars(response))
        self._attributes.update(self._ours)

    @contextlib.contextmanager
    def _reading(self) -> Generator[None]:
        # Reading to the end closes the response, before its content is there.
        self._is_reading = True
        try:
            yield
        finally:
            self._is_reading = False
            self._closed()

    def _closed(self) -> None:
        if self._is_reading:
            return
        # What we set holds the response in a cycle, with its body.
        for name, ours in self._ours.items():
            if self._attributes.get(name) is ours:
                del self._attributes[name]
        with guard("openai.body"):
            self._done(self._response)


def start_call(tracer: Tracer, client: object, request: Request) -> RecordedCall | None:
    """Start the span of a request; None when instrumentation is suppressed."""
    if context_api.get_value(semconv.SUPPRESS):
        return None
    span = tracer.start_span(_NAMES.get(request.path, request.path.strip("/") or "request"), enclosing_context())
    call = RecordedCall(span, request)
    if span.is_recording():
        with guard("openai.request"):
            found = request_attributes(request.path, request.body)
            space = room(span)
            if space is not None and len(found) + RESERVE > space:
                # Hundreds of messages; ``input.value`` has them all.
                found = {key: value for key, value in found.items() if not key.startswith("llm.input_messages.")}
            span.set_attributes(found)
            host = getattr(getattr(client, "base_url", None), "host", None)
            if isinstance(host, str) and host.endswith(("openai.com", "openai.azure.com")):
                span.set_attribute("llm.provider", "azure" if "azure" in host else "openai")
    return call


def error_status(error: BaseException) -> Status:
    """Return the status of a call that failed."""
    return Status(StatusCode.ERROR, f"{type(error).__name__}: {error}")


def fail_call(call: RecordedCall, error: BaseException) -> None:
    """End the span of a request that got no answer."""
    with guard("openai.error"):
        call.fail(error)


def as_current(call: RecordedCall) -> AbstractContextManager[Span]:
    """Return a block in which the span of *call* is the current one."""
    return trace.use_span(call.span, end_on_exit=False, record_exception=False, set_status_on_exception=False)


def _json_body(response: Any) -> object:  # noqa: ANN401 - of httpx or httpx2
    """Return the JSON of a body that was read, None where it was not or is no JSON."""
    with contextlib.suppress(Exception):
        return json.loads(response.content)
    return None
