"""The wrappers of ``OpenAI.request`` and ``AsyncOpenAI.request``, and of the step in them that makes the answer.

Which way a request goes is decided in ``Routing``; sync and async wrappers differ by their ``await`` only.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

from agentlightning._internal.guard import guard
from agentlightning.instrumentation.agentops_call import AdoptedCall, owned_span
from agentlightning.instrumentation.openai_call import current_call, lead_to, options_of, read_request
from agentlightning.instrumentation.openai_openinference import ObservedCall, open_span
from agentlightning.instrumentation.openai_record import as_current, end_dropped, fail_call, start_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.trace import Tracer

    from agentlightning.instrumentation.openai_call import Call
    from agentlightning.instrumentation.openai_record import RecordedCall

    Method = Callable[..., object]
    AsyncMethod = Callable[..., Awaitable[object]]


class Routing:
    """Decides for each request by whom it is recorded. Shared by all wrappers; thread-safe."""

    def __init__(self, tracer: Tracer, *, openinference: bool, ours: bool) -> None:
        """Record with *tracer*.

        Args:
            tracer: For spans of our own.
            openinference: OpenInference records, and we add to its spans.
            ours: It is not the program that has instrumented the library with it.
        """
        self.is_on = True
        self._tracer = tracer
        self._openinference = openinference
        self._ours = ours

    def route(
        self, client: object, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> ObservedCall | RecordedCall | None:
        """Return the call that the request becomes, or None when it is not to be recorded."""
        end_dropped()
        if not self.is_on:
            return None
        with guard("openai.route"):
            request = read_request(args, kwargs)
            if not request.calls_model:
                return None
            owned = owned_span()
            if owned is not None:  # the AgentOps SDK records this one: it gets what it lacks, and no second span
                return AdoptedCall(owned, request)
            if not self._openinference or (self._ours and request.raw == "stream"):
                recorded = start_call(self._tracer, client, request)
                if recorded is not None:
                    lead_to(recorded.span, client, options_of(args, kwargs))
                return recorded
            span = open_span() if self._ours else None
            # The program has put its own OpenInference around ours: one span is enough if it comes to us as well.
            if span is not None and getattr(span, "resource", 0) is not getattr(self._tracer, "resource", 1):
                span = None
            observed = ObservedCall(span)
            observed.sent = client, options_of(args, kwargs)
            return observed
        return None


def sync_request(routing: Routing, bare: Method, traced: Method) -> Method:
    """Return ``OpenAI.request`` that records.

    Args:
        routing: Says how.
        bare: The method as it was.
        traced: The method with OpenInference around it.
    """

    @functools.wraps(bare)
    def request(self: object, /, *args: object, **kwargs: object) -> object:
        """Send a request of the client with the span that ``routing`` chose for it, or with none."""
        call = routing.route(self, args, kwargs)
        if call is None:
            return bare(self, *args, **kwargs)
        if isinstance(call, ObservedCall):
            with _Making(call):
                result = (bare if call.is_foreign else traced)(self, *args, **kwargs)
            with guard("openai.hand_out"):
                call.hand_out(result)
            return result
        with as_current(call), _Failing(call):
            result = bare(self, *args, **kwargs)
        with guard("openai.received"):
            call.received(result)
        return result

    return request


def async_request(routing: Routing, bare: AsyncMethod, traced: AsyncMethod) -> AsyncMethod:
    """Return ``AsyncOpenAI.request`` that records; the arguments are those of ``sync_request``."""

    @functools.wraps(bare)
    async def request(self: object, /, *args: object, **kwargs: object) -> object:
        """As the plain one, for the async client."""
        call = routing.route(self, args, kwargs)
        if call is None:
            return await bare(self, *args, **kwargs)
        if isinstance(call, ObservedCall):
            with _Making(call):
                result = await (bare if call.is_foreign else traced)(self, *args, **kwargs)
            with guard("openai.hand_out"):
                call.hand_out(result)
            return result
        with as_current(call), _Failing(call):
            result = await bare(self, *args, **kwargs)
        with guard("openai.received"):
            parse = call.received(result)
            if parse is not None:
                call.take(await parse())
        return result

    return request


def sync_answer(original: Method) -> Method:
    """Return ``OpenAI._process_response`` that shows the answer to the call."""

    @functools.wraps(original)
    def process(self: object, /, *args: object, **kwargs: object) -> object:
        """Return the parsed answer, after showing it to the call."""
        result = original(self, *args, **kwargs)
        _show(result)
        return result

    return process


def async_answer(original: AsyncMethod) -> AsyncMethod:
    """Return ``AsyncOpenAI._process_response`` that shows the answer to the call."""

    @functools.wraps(original)
    async def process(self: object, /, *args: object, **kwargs: object) -> object:
        """As the plain one, for the async client."""
        result = await original(self, *args, **kwargs)
        _show(result)
        return result

    return process


def _show(result: object) -> None:
    call = current_call.get()
    if isinstance(call, ObservedCall):
        with guard("openai.received"):
            call.received(result)


class _Failing:
    """Block whose error ends the span of *call*, and goes on."""

    def __init__(self, call: RecordedCall) -> None:
        self._call = call

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            fail_call(self._call, error)


class _Making:
    """Block in which a request is being made."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._token: Token[Call | None] | None = None

    def __enter__(self) -> None:
        self._token = current_call.set(self._call)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        current_call.reset(cast("Token[Call | None]", self._token))
