"""The tracer provider: join the program's, or make one; never replace one, never rewrite its resource."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import time
import weakref
from random import getrandbits
from typing import TYPE_CHECKING, Any, ClassVar

import opentelemetry.trace as trace_api
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, TraceFlags

from agentlightning import semconv, settings
from agentlightning._internal.context import home_rollout, running
from agentlightning._internal.guard import guard
from agentlightning.instrumentation.base import Instrumentor
from agentlightning.pipeline.process import get_pipeline
from agentlightning.pipeline.sampling import policy, quick
from agentlightning.tracer.auto import keep_interrupt
from agentlightning.tracer.inherited import inherited
from agentlightning.tracer.processor import CaptureProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Link, SpanKind, Tracer, TraceState
    from opentelemetry.util.types import Attributes

    from agentlightning.pipeline.receipt import Receipt
    from agentlightning.pipeline.sampling import Verdict
    from agentlightning.tracer.processor import LightningSpanProcessor

    EmittedValue = str | bool | float | list[str] | list[bool] | list[float]

MAX_ATTRIBUTES = 10_000
"""At the SDK's own 128 a long conversation loses its oldest messages."""


_SILENT = logging.CRITICAL + 1

_WATCHED = "_agentlightning_watched"
"""Attribute of ``opentelemetry.trace`` that says that its setter is watched."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status()


_SAMPLER = guard("sampler")
_KEEP = semconv.KEEP


class _StampingSampler(Sampler):
    """Decides on a span and stamps it: attributes that a sampler returns cost less than setting them afterwards."""

    def should_sample(  # noqa: PLR0913, PLR0917 - signature of OpenTelemetry
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide on a span, and return its stamps as attributes; a failure of ours keeps the span."""
        _ = kind, links, trace_state
        parent = trace_api.get_current_span(parent_context).get_span_context()
        state = parent.trace_state
        more = inherited(parent_context)
        if more:
            attributes = {**more, **attributes} if attributes else more
        rollout = running.get() or home_rollout()
        decision = Decision.RECORD_AND_SAMPLE
        verdict = None
        if (
            not quick.is_plain
            or state
            or (attributes and _KEEP in attributes)
            or (rollout is not None and rollout.sample_rate is not None and rollout.sample_rate < 1)
        ):
            with _SAMPLER:
                verdict = quick.look().decide(name, attributes, trace_id, parent, rollout)
        if verdict is not None:
            state = verdict.state
            if verdict.lost:
                decision = _unkept(verdict)
                if decision is Decision.DROP:
                    return SamplingResult(decision, None, state)
            if verdict.probability < 1 and not verdict.lost:
                attributes = {**(attributes or {}), semconv.INCLUSION: verdict.probability}
        if rollout is not None:
            stamps = {semconv.ROLLOUT_ID: rollout.rollout_id, semconv.ATTEMPT_ID: rollout.attempt_id}
            attributes = {**attributes, **stamps} if attributes else stamps
        return SamplingResult(decision, attributes, state)

    def get_description(self) -> str:
        """Return the name under which the SDK lists this sampler."""
        return "AgentLightning"


def _unkept(verdict: Verdict) -> Decision:
    """Count a span that is not kept; with tail rules one that was only not sampled is recorded, for them to see."""
    if verdict.lost == "sampled" and policy().tail is not None:
        return Decision.RECORD_ONLY
    get_pipeline().queue.refuse(verdict.lost)
    return Decision.DROP


class _RolloutIds(RandomIdGenerator):
    """Root spans of one rollout share its trace, in all of its processes."""

    def generate_trace_id(self) -> int:
        """Return the trace of the running rollout, else a new one."""
        rollout = running.get() or home_rollout()
        return super().generate_trace_id() if rollout is None else rollout.trace_id


class LightningTracerProvider(TracerProvider):
    """The provider that is made where the program has none."""

    def __init__(self, capture: CaptureProcessor) -> None:
        """Make it with *capture* as its one processor."""
        name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": _service_name()}
        super().__init__(
            sampler=_StampingSampler(),
            resource=Resource.create({**name, "process.pid": os.getpid()}),
            id_generator=_RolloutIds(),
            span_limits=SpanLimits(max_span_attributes=MAX_ATTRIBUTES, max_events=MAX_ATTRIBUTES),
            shutdown_on_exit=False,
        )
        super().add_span_processor(capture)
        self._capture = capture
        self._scope = InstrumentationScope("agentlightning")
        self.is_shared = False
        """Whether somebody else added a processor, which then has to see every span."""

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add a processor of the program's; from then on every span takes the SDK's ordinary way."""
        self.is_shared = True
        super().add_span_processor(span_processor)

    def emit(
        self,
        name: str,
        attributes: dict[str, EmittedValue],
        status: Status | None = None,
        link: Link | None = None,
        receipt: Receipt | None = None,
    ) -> ReadableSpan | None:
        """Make a span that begins and ends now under the current one, and hand it to the pipeline.

        The fast way: none of the SDK's machinery for spans that last. Returns None, and nothing was done, when the
        provider is shared or the span is one that is perhaps not kept. *attributes* becomes the span's. With *link*
        it hangs under the span that this points to; stamps in *attributes* stay then. *receipt* is told what becomes of
        it.
        """
        if self.is_shared:
            return None
        parent = trace_api.get_current_span().get_span_context() if link is None else link.context
        more = inherited(None)
        if more:
            attributes = {**more, **attributes}
        rollout = running.get() or home_rollout()
        state = parent.trace_state
        if not (quick.is_plain or quick.look().is_plain) or state or _KEEP in attributes:
            return None  # the sampler decides
        if rollout is not None and rollout.sample_rate is not None and rollout.sample_rate < 1:
            return None
        attempt_id = None if rollout is None else rollout.attempt_id
        if link is not None and semconv.ATTEMPT_ID in attributes:
            attempt_id = str(attributes[semconv.ATTEMPT_ID])  # of the span that it points to
        elif rollout is not None:
            attributes[semconv.ROLLOUT_ID] = rollout.rollout_id
            attributes[semconv.ATTEMPT_ID] = rollout.attempt_id
        if parent.is_valid:
            trace_id = parent.trace_id
        else:
            parent, trace_id = None, self.id_generator.generate_trace_id()
        now, span_id = time.time_ns(), getrandbits(64) or 1
        span = ReadableSpan(
            name=name,
            context=SpanContext(trace_id, span_id, False, _SAMPLED),  # noqa: FBT003 - positional is faster
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            status=status or _UNSET,
            start_time=now,
            end_time=now,
            instrumentation_scope=self._scope,
            links=() if link is None else (link,),
        )
        if receipt is not None:
            receipt.span = span
            receipt.expect(span_id)
        self._capture.finish(span, attempt_id)
        return span


class _Providers:
    """Which provider this process uses, and who collects its spans."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.collectors: dict[str, LightningSpanProcessor] = {}
        self.current: TracerProvider | None = None
        self.joined: weakref.WeakSet[TracerProvider] = weakref.WeakSet()
        self.own: LightningTracerProvider | None = None

    def get(self) -> TracerProvider:
        """Return the program's provider, joined, or ours."""
        provider = trace_api.get_tracer_provider()
        if provider is self.current and self.current is not None:
            return self.current
        with self.lock:
            return self._find()

    def _find(self) -> TracerProvider:
        _watch_set_tracer_provider()
        current = trace_api.get_tracer_provider()
        if not isinstance(current, TracerProvider):
            self.own = current = self.own or LightningTracerProvider(CaptureProcessor(self.collectors, stamping=False))
            self.joined.add(current)
            _let_sdk_speak(speak=False)
            # Not set_tracer_provider(): that works once in a process, and it is the program's to use.
            trace_api._TRACER_PROVIDER = current  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self.join(current)
        return current

    def join(self, provider: TracerProvider) -> None:
        """Add our processor to a provider of the program's, once."""
        with self.lock:
            if provider not in self.joined:
                self.joined.add(provider)
                _let_sdk_speak(speak=True)
                provider.add_span_processor(CaptureProcessor(self.collectors, stamping=True))
            self.current = provider


providers = _Providers()
"""The providers of this process."""

atexit.register(keep_interrupt)  # before the pipeline registers its flush, so it runs after it


def get_provider() -> TracerProvider:
    """Return the provider that spans of this process are made by: the program's own, joined, else ours."""
    return providers.get()


class ProviderInstrumentor(Instrumentor):
    """Makes the provider as soon as OpenTelemetry is imported, so that a program's own spans are kept too."""

    name: ClassVar[str] = "opentelemetry"
    modules: ClassVar[tuple[str, ...]] = ("opentelemetry.trace",)

    def _install(self, tracer_provider: trace_api.TracerProvider) -> None:
        """Nothing: the provider that is handed in was made or joined for it."""

    def _remove(self) -> None:
        """Nothing: a provider cannot be taken back."""


def emit(
    name: str,
    attributes: dict[str, EmittedValue],
    status: Status | None,
    link: Link | None = None,
    receipt: Receipt | None = None,
) -> ReadableSpan | None:
    """Write a span that begins and ends now by the fast way; None where the SDK's ordinary way has to be taken."""
    provider = providers.get()
    if not isinstance(provider, LightningTracerProvider):
        return None
    return provider.emit(name, attributes, status, link, receipt)


def get_tracer(name: str = "agentlightning") -> Tracer:
    """Return a tracer whose spans reach the store; one that does nothing when ``AGL_ENABLED`` is 0."""
    if not settings.get(settings.ENABLED):
        return trace_api.NoOpTracer()
    return get_provider().get_tracer(name)


def _let_sdk_speak(*, speak: bool) -> None:
    """Silence the log of the SDK where only our provider uses it: alone the program would have no SDK that warns."""
    for name in ("opentelemetry.sdk", "opentelemetry.attributes"):
        logger = logging.getLogger(name)
        if logger.level in (logging.NOTSET, _SILENT):
            logger.setLevel(logging.NOTSET if speak else _SILENT)


def _watch_set_tracer_provider() -> None:
    """Join a provider that the program sets after ours was made.

    The private function under ``set_tracer_provider``: programs import the public one by name, maybe before this.
    """
    if hasattr(trace_api, _WATCHED):
        return
    original: Callable[..., None] = trace_api._set_tracer_provider  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    @functools.wraps(original)
    def set_tracer_provider(tracer_provider: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of OpenTelemetry
        """Set the provider, then join it when it was taken."""
        original(tracer_provider, *args, **kwargs)
        with guard("provider.join"):
            if isinstance(tracer_provider, TracerProvider) and trace_api.get_tracer_provider() is tracer_provider:
                providers.join(tracer_provider)

    trace_api._set_tracer_provider = set_tracer_provider  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    setattr(trace_api, _WATCHED, True)


def _service_name() -> str:
    script = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] not in ("-c", "-m", "") else "python"  # noqa: PTH119
    return script or "python"
