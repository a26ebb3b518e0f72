"""One request of an HTTP client that calls a model, as a span, from the request to the end of its answer.

Only requests that look like a model's API become spans, and none that an instrumented client makes: its span says more.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import re
import time
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning.instrumentation.enclosing import enclosing_context
from agentlightning.instrumentation.model_call import FIRST_ERROR, FIRST_TOKEN, MAX_ERROR_CHARS, ModelCall, api_of
from agentlightning.instrumentation.openai_call import current_call
from agentlightning.view.facts import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from opentelemetry.trace import Span, Tracer

OWN_HEADER = "x-agentlightning-client"
"""Header of our own clients' requests."""

_SUPPRESS = (semconv.SUPPRESS, "suppress_http_instrumentation")
"""Keys by which other libraries ask for silence in OpenTelemetry's context."""
_SECRET = frozenset(
    ("authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie", "set-cookie")
)
_MAX_BODY_CHARS = 2**20
_OWN_PROXY = re.compile(r"/rollout/[^/]+/attempt/[^/]+/")
_busy: ContextVar[bool] = ContextVar("agentlightning_http_busy", default=False)
"""Whether this context is inside a request that is recorded: redirects and clients below clients are part of it."""


class Choice(NamedTuple):
    """What is recorded beyond the call itself."""

    headers: bool = False
    """Headers of request and answer; those with credentials never."""
    bodies: bool = False
    """The bodies as they are, at most 1 MiB of each, besides what is read of them."""
    own: bool = False
    """Requests of our own clients too."""


class HttpCall:
    """A request with its span. Used by one thread or task at a time; ends once, whatever comes first."""

    def __init__(self, span: Span, call: ModelCall, choice: Choice) -> None:
        """Record into *span*, which has started."""
        self._span = span
        self._call = call
        self._choice = choice
        self._has_part = False
        self._body: list[bytes] = []
        self._is_open = True

    def began(self, status: int, headers: Mapping[str, str], *, is_decoded: bool) -> None:
        """Note the beginning of the answer; *is_decoded*: its parts will come uncompressed."""
        with guard("http.answer"):
            lowered = {name.lower(): value for name, value in headers.items()}
            encoding = "" if is_decoded else lowered.get("content-encoding", "")
            self._call.began(status, lowered.get("content-type", ""), encoding)
            self._span.set_attribute("http.response.status_code", status)
            self._status = status
            if self._choice.headers:
                self._span.set_attributes(_headers("response", lowered))

    def part(self, chunk: bytes) -> None:
        """Look at a part of the answer on its way to the program."""
        if not self._is_open:
            return
        with guard("http.part"):
            if self._call.is_stream and not self._has_part:
                self._has_part = True
                self._span.add_event(FIRST_TOKEN)
            if self._choice.bodies:
                self._body.append(chunk)
            self._call.passed(chunk)

    def end(self, error: BaseException | None = None, *, whole: bool = True, end_ns: int | None = None) -> None:
        """End the span; *whole*: the answer was read to its end. A second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        with guard("http.end"):
            try:
                self._write(error, whole=whole)
            finally:
                self._span.end(end_ns)

    def _write(self, error: BaseException | None, *, whole: bool) -> None:
        span = self._span
        attributes, problem = self._call.answered() if whole or self._call.is_stream else ({}, "")
        span.set_attributes(attributes)
        if self._choice.bodies:
            span.set_attribute("http.response.body", _text(b"".join(self._body)))
        if error is not None:
            span.record_exception(error)
            problem = f"{type(error).__name__}: {error}"
        if self._call.is_stream and not self._call.is_complete:
            is_refusal = self._status >= FIRST_ERROR
            if not is_refusal:
                span.set_attribute(semconv.STREAM_STATE, "failed" if error is not None else "closed_early")
        status = Status(StatusCode.ERROR, problem[:MAX_ERROR_CHARS]) if problem else Status(StatusCode.OK)
        span.set_status(status)

    _status = 0

    def dropped(self) -> None:
        """Note that the answer is gone, unread; called by the garbage collector, so nothing else may be done here."""
        if self._is_open:
            _dropped.append((self, time.time_ns()))

    @contextlib.contextmanager
    def sending(self) -> Generator[None]:
        """Block in which the request is made; an error ends the span and goes on."""
        token = _busy.set(True)
        try:
            with self.waiting():
                yield
        finally:
            _busy.reset(token)

    def waiting(self) -> _Block:
        """Return a block in which the answer is waited for; an error ends the span and goes on."""
        return _Block(self, is_whole=False)

    def reading(self) -> _Block:
        """Return a block in which the answer is read to its end, which ends the span, as an error does.

        A reader that leaves a generator halfway ends it by closing the answer, or by dropping it.
        """
        return _Block(self, is_whole=True)


class _Block:
    """A block of work on an answer; see ``HttpCall.waiting`` and ``HttpCall.reading``."""

    def __init__(self, call: HttpCall, *, is_whole: bool) -> None:
        self._call = call
        self._is_whole = is_whole

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None:
            if self._is_whole:
                self._call.end()
        elif not (self._is_whole and isinstance(error, GeneratorExit)):
            self._call.end(error, whole=False)


_dropped: deque[tuple[HttpCall, int]] = deque()
"""Calls whose answer was dropped halfway, and when."""


def end_dropped() -> None:
    """End the spans of answers that were dropped since; called with the next request, and at the end of the program."""
    while _dropped:
        with contextlib.suppress(IndexError):  # another thread was faster
            call, end_ns = _dropped.popleft()
            call.end(whole=False, end_ns=end_ns)


atexit.register(end_dropped)


class Recorder:
    """Decides which requests are recorded. Shared by all clients; thread-safe."""

    def __init__(self, tracer: Tracer, choice: Callable[[], Choice]) -> None:
        """Record with *tracer* what *choice* says, which is asked for each call."""
        self.is_on = True
        self._tracer = tracer
        self._choice = choice

    def start(self, method: str, url: str, headers: Mapping[str, str], body: object) -> HttpCall | None:
        """Return the call that a request becomes, or None when it is not to be recorded.

        Args:
            method: Of HTTP.
            url: The whole address.
            headers: Of the request.
            body: Bytes or text of JSON, or an object that will be JSON; anything else is none of a model's API.
        """
        if not self.is_on or _busy.get() or method.upper() != "POST":
            return None
        with guard("http.start"):
            end_dropped()
            lowered = {name.lower(): value for name, value in headers.items()}
            parts = urlsplit(url)
            fields = _fields(body)
            api = api_of(parts.path.rstrip("/"), fields) if fields is not None else None
            if api is None or fields is None or _is_recorded():
                return None
            choice = self._choice()
            if OWN_HEADER in lowered and not choice.own:
                return None
            if _OWN_PROXY.search(parts.path):  # it records the call itself
                return None
            call = ModelCall(api, parts.path.rstrip("/"))
            span = self._tracer.start_span(call.name, enclosing_context(), SpanKind.CLIENT)
            if span.is_recording():
                span.set_attributes(call.asked(fields))
                span.set_attribute("server.address", parts.hostname or "")
                span.set_attribute("url.path", parts.path)
                if choice.headers:
                    span.set_attributes(_headers("request", lowered))
                if choice.bodies:
                    span.set_attribute("http.request.body", json.dumps(fields, ensure_ascii=False)[:_MAX_BODY_CHARS])
            return HttpCall(span, call, choice)
        return None


def _is_recorded() -> bool:
    """Tell whether an instrumented client makes this request, or somebody asked for silence."""
    if current_call.get() is not None or any(context_api.get_value(key) for key in _SUPPRESS):
        return True
    for context in (context_api.get_current(), enclosing_context()):
        span: Any = trace.get_current_span(context)
        if not span.is_recording():
            continue
        scope = getattr(span, "instrumentation_scope", None)
        found = facts(
            getattr(span, "name", ""), getattr(span, "attributes", None) or {}, scope=getattr(scope, "name", "")
        )
        if found.kind in {"llm", "embedding"}:
            return True
    return False


def _fields(body: object) -> Mapping[str, object] | None:
    if isinstance(body, (bytes, bytearray, str)):
        try:
            body = cast("object", json.loads(body))
        except (ValueError, RecursionError):
            return None
    return cast("Mapping[str, object]", body) if isinstance(body, dict) else None


def _headers(side: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {f"http.{side}.header.{name}": value for name, value in headers.items() if name not in _SECRET}


def _text(body: bytes) -> str:
    return body[:_MAX_BODY_CHARS].decode("utf-8", "replace")
