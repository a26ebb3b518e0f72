"""Requests of the OpenAI client whose span the AgentOps SDK has made: token ids are added, no second span is.

The SDK wraps the methods of resources (``chat.completions.create``), we wrap ``request`` below them, so its span is
there when the request begins. From SDK 0.4.15 on it is the current span; the copy of ``opentelemetry-instrumentation-
openai`` inside 0.4.13 and 0.4.14 does not make it current, and there a hook announces it. What the SDK leaves out or
loses (token ids, log-probabilities, the end of a stream that was left, a body that the program reads itself) is
written just before its span ends.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, cast

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning.instrumentation.openai_message import response_attributes
from agentlightning.instrumentation.openai_record import RecordedCall, error_status
from agentlightning.instrumentation.openai_token import without_token_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span

    from agentlightning.instrumentation.openai_call import Request

SCOPES = frozenset(("openai", "opentelemetry.instrumentation.openai.v1", "agentops.instrumentation.openai"))
"""Names of the instrumentation scopes that the SDK's spans of OpenAI calls have, by release."""

_PREFIX = "openai."
_ADOPTED = "_agentlightning_adopted"
"""Attribute of a span that belongs to a request already: one that was left open must not take the next one too."""

announced: ContextVar[Span | None] = ContextVar("agentlightning_agentops_span", default=None)
"""Span of the SDK that was started for the request that comes next, where it is not the current one."""


def owned_span() -> Span | None:
    """Return the span that the SDK has started for the request that begins now, and take it."""
    waiting = announced.get()
    if waiting is not None:
        announced.set(None)
        if waiting.is_recording():
            return _take(waiting)
    return _take(trace.get_current_span())


def _take(span: Span) -> Span | None:
    name = getattr(getattr(span, "instrumentation_scope", None), "name", None)
    if name not in SCOPES or not span.is_recording() or not str(getattr(span, "name", "")).startswith(_PREFIX):
        return None
    if getattr(span, _ADOPTED, False):
        return None
    setattr(span, _ADOPTED, True)
    return span


class AdoptedCall(RecordedCall):
    """A request whose span the AgentOps SDK made and, mostly, ends."""

    def __init__(self, span: Span, request: Request) -> None:
        """Add to *span*, which the SDK has started for *request*."""
        super().__init__(span, request)
        self._end: Callable[..., None] = span.end
        self._is_finished = False
        self._ended_by_sdk = False
        if request.raw == "stream" or request.body.get("stream"):
            # The SDK ends it too early, or without what the stream brought until it was left.
            span.end = self._sdk_ends

    def _sdk_ends(self, end_time: int | None = None) -> None:
        """Stand in for the span's ``end``: the SDK calls it, for some streams before anything was read."""
        if not self._is_finished and (self._request.raw == "stream" or (self.is_stream and self.state is None)):
            self._ended_by_sdk = True  # the program reads on, or leaves it: then it ends
            return
        self.finish(self.output.payload())
        self._release()
        self._end(end_time)

    def _release(self) -> None:
        vars(self.span).pop("end", None)

    def fail(self, error: BaseException) -> None:
        """Leave it to the SDK to say that the request got no answer."""
        del error
        self._is_finished = True
        self._release()

    def finish(
        self, payload: Mapping[str, object], error: BaseException | None = None, end_ns: int | None = None
    ) -> None:
        """Write what the SDK does not; end the span where the SDK does not either."""
        if self._is_finished:
            return
        self._is_finished = True
        span = self.span
        if not span.is_recording():
            return
        left = self.is_stream and self.state not in {None, "complete"}
        if left or self._ended_by_sdk:
            self._write_answer(payload)
        if left:
            span.set_attribute(semconv.STREAM_STATE, str(self.state))
        found = self.tokens.attributes()
        if found:
            span.set_attributes(found)
        if left or self._ended_by_sdk:
            self._finish_span(error, end_ns)

    def _write_answer(self, payload: Mapping[str, object]) -> None:
        if not payload or any(key.startswith("gen_ai.completion.") for key in getattr(self.span, "attributes", {})):
            return
        shorter = without_token_fields(dict(payload), logprobs=self.tokens.has_logprobs)
        with guard("agentops.answer"):
            self.span.set_attributes(response_attributes(cast("dict[str, object]", shorter)))

    def _finish_span(self, error: BaseException | None, end_ns: int | None) -> None:
        """End the span; what the SDK does with it afterwards has no effect, except for one warning that is avoided."""
        span = self.span
        if error is not None:
            span.set_status(error_status(error))
        elif getattr(getattr(span, "status", None), "is_unset", False):
            span.set_status(Status(StatusCode.OK))
        self._end(end_ns)
        span.end = _nothing


def _nothing(end_time: int | None = None) -> None:
    """Take the place of ``end`` on a span that has ended: the SDK calls it once more, and OpenTelemetry would warn."""
    del end_time
