"""Adds to the spans of ``openinference-instrumentation-openai`` what they lack.

That is: token ids and log-probabilities, and how a stream ended that was not read to its end. OpenInference is given a
tracer whose spans tell us when they end, so that what we add comes last: where the provider limits the number of
attributes, the oldest are dropped. Only public interfaces of OpenInference and OpenTelemetry are used.
"""

from __future__ import annotations

import inspect
import json
import weakref
from typing import TYPE_CHECKING, Any, cast

import wrapt
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning.instrumentation.attribute import LLM_INPUT_MESSAGES, LLM_TOOLS, RESERVE, room
from agentlightning.instrumentation.enclosing import enclosing_context
from agentlightning.instrumentation.openai_call import Call, current_call, is_stream, lead_to, parsed_now
from agentlightning.instrumentation.openai_message import response_attributes
from agentlightning.instrumentation.openai_token import json_without_ids, without_token_fields

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from opentelemetry.trace import Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

_REPEATED = (LLM_INPUT_MESSAGES + ".", LLM_TOOLS + ".")
"""Attributes of which there may be hundreds, and that say what ``input.value`` says."""

SCOPE = "openinference.instrumentation.openai"
"""Scope name of OpenInference's spans."""


class ObservedCall(Call):
    """A request whose span is OpenInference's."""

    def __init__(self, foreign: Span | None = None) -> None:
        """Observe a call; *foreign* is its span when an instrumentor of the program's own made it."""
        super().__init__()
        self.span = foreign
        self.is_foreign = foreign is not None
        self.sent: tuple[object, object] = (None, None)
        """Client and options of the request."""
        self._handed: weakref.ref[Any] | None = None
        self._closing = False

    def received(self, result: object) -> None:
        """Look at the answer before OpenInference does."""
        if self.span is None:  # the program has instrumented the library itself, before us
            self.span = open_span()
            self.is_foreign = self.span is not None
        answer = parsed_now(result)
        if is_stream(answer):
            self.watch_stream(answer)
            return
        self.tokens.add(answer)
        if self.is_foreign:
            self._write()

    def hand_out(self, result: object) -> None:
        """Remember what the user gets, if it is a stream: OpenInference ends the span when that is closed."""
        stream = parsed_now(result) if self.is_stream else None
        if stream is not None:
            self._handed = weakref.ref(stream)

    def closed(self) -> Awaitable[object] | None:
        """Let OpenInference end the span of a stream that was left by a way that it does not see."""
        super().closed()
        stream = self._handed() if self._handed is not None else None
        if stream is None or self._closing or self.span is None or not self.span.is_recording():
            return None
        self._closing = True
        rest = stream.close()
        return rest if inspect.isawaitable(rest) else None

    def settled(self, error: BaseException | None) -> None:
        """Write at once where the end of the span cannot be seen."""
        del error
        if self.is_foreign:
            self._write()

    def _write(self) -> None:
        if self.span is not None and self.span.is_recording():
            self.finish(self.span)

    def finish(self, span: Span) -> None:
        """Write what OpenInference does not, as the last thing before the end of the span."""
        found = self.tokens.attributes()
        if self.is_stream and self.state != "complete":
            state = self.state or "closed_early"  # None: it was dropped unread
            if not getattr(span, "attributes", {}).get(semconv.OUTPUT_VALUE):
                payload = without_token_fields(self.output.payload(), logprobs=True)
                found = {**(response_attributes(cast("dict[str, object]", payload)) if payload else {}), **found}
            found[semconv.STREAM_STATE] = state
            if state == "closed_early" and getattr(getattr(span, "status", None), "is_unset", False):
                span.set_status(Status(StatusCode.OK))
        if found:
            span.set_attributes(found)


_Proxy: Any = cast("Any", wrapt.ObjectProxy)  # wrapt has no types


class _CallSpan(_Proxy):
    """A span that adds what its call has to say when it ends; in all else it is the span that it wraps."""

    __wrapped__: Span

    def __init__(self, span: Span, call: ObservedCall) -> None:
        _Proxy.__init__(self, span)
        self._self_call = call

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute.

        The answer's JSON goes without the arrays that get attributes of their own. Messages of the request, which
        ``input.value`` holds as well, are left out where the provider's limit would drop others for them.
        """
        if key.startswith(_REPEATED):
            space = room(self.__wrapped__)
            if space is not None and space <= RESERVE:
                return
        if key == semconv.OUTPUT_VALUE:
            with guard("openai.output"):
                value = _shorter(value, self._self_call)
        self.__wrapped__.set_attribute(key, value)

    def end(self, end_time: int | None = None) -> None:
        """End the span, once what the call has to say was written."""
        if self.__wrapped__.is_recording():
            with guard("openai.end"):
                self._self_call.finish(self.__wrapped__)
        self.__wrapped__.end(end_time)


class ObservedTracer(trace.Tracer):
    """Starts spans of the real tracer, tied to the request that is being made."""

    def __init__(self, tracer: Tracer) -> None:
        """Start spans of *tracer*."""
        self.real = tracer
        self.is_on = True

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> Span:  # noqa: ANN401 - as the real one has them
        """Start a span; one that does nothing once the library is no longer instrumented."""
        if not self.is_on:
            return INVALID_SPAN
        if not args and kwargs.get("context") is None:
            kwargs["context"] = enclosing_context()
        span = self.real.start_span(name, *args, **kwargs)
        call = current_call.get()
        if not isinstance(call, ObservedCall) or not span.is_recording():
            return span
        call.span = span
        with guard("openai.lead"):
            lead_to(span, *call.sent)
        return cast("Span", _CallSpan(span, call))

    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of OpenTelemetry
        """Start a span of the real tracer."""
        return self.real.start_as_current_span(name, *args, **kwargs)


class ObservedProvider(trace.TracerProvider):
    """Gives OpenInference its tracer."""

    def __init__(self, provider: TracerProvider) -> None:
        """Take tracers from *provider*."""
        self._provider = provider
        self.tracers: list[ObservedTracer] = []

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:  # noqa: ANN401 - as the real one has them
        """Return an observed tracer."""
        tracer = ObservedTracer(self._provider.get_tracer(*args, **kwargs))
        self.tracers.append(tracer)
        return tracer

    def turn_off(self) -> None:
        """Start no more spans."""
        for tracer in self.tracers:
            tracer.is_on = False


def open_span() -> Span | None:
    """Return the current span if it is one that OpenInference has started for the request that is being made."""
    span = trace.get_current_span()
    scope = getattr(span, "instrumentation_scope", None)
    return span if span.is_recording() and getattr(scope, "name", None) == SCOPE else None


def _shorter(value: AttributeValue, call: ObservedCall) -> AttributeValue:
    """Return the JSON of an answer without token ids; as it is when there are none."""
    if not isinstance(value, str) or value[:1] != "{":
        return value
    if call.tokens.has_ids:
        value = json_without_ids(value)
    if call.tokens.has_logprobs:
        return json.dumps(without_token_fields(json.loads(value), logprobs=True), ensure_ascii=False)
    return value
