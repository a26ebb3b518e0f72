"""The span processor: stamps a span with its rollout when it starts, hands it to the pipeline when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import get_current_span

from agentlightning import semconv, settings
from agentlightning._internal.context import home_rollout, running
from agentlightning._internal.guard import guard
from agentlightning.pipeline.process import current_pipeline, flush, get_pipeline
from agentlightning.pipeline.receipt import drop
from agentlightning.pipeline.sampling import policy, quick
from agentlightning.pipeline.tail import UNSAMPLED
from agentlightning.tracer.inherited import inherited

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from agentlightning._internal.context import RunningRollout

MAX_KEPT_SPANS = 10_000
"""Spans that a ``trace_context`` keeps in memory for ``spans()`` and ``get_last_trace()``."""


_START, _END = guard("processor.on_start"), guard("processor.on_end")


class LightningSpanProcessor(SpanProcessor):
    """What ``trace_context`` yields: the ended spans of one rollout, as they end. Thread-safe."""

    def __init__(self) -> None:
        """Begin with no spans."""
        # Without a lock: a fork could copy it held, a signal handler could find it held. These operations are atomic.
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep *span*, up to 10,000 of them; the store gets them all."""
        if len(self._spans) < MAX_KEPT_SPANS:
            self._spans.append(span)

    def spans(self) -> list[ReadableSpan]:
        """Return the spans of this rollout that have ended so far, in the order in which they ended."""
        return self._spans[:MAX_KEPT_SPANS]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until every span that ended can be read from its store; False when that took longer."""
        return flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Flush; the processor goes on to work."""
        flush(settings.get(settings.FLUSH_TIMEOUT_S))


class CaptureProcessor(SpanProcessor):
    """The one processor that is added to a provider; it serves all rollouts of the process."""

    def __init__(self, collectors: dict[str, LightningSpanProcessor], *, stamping: bool) -> None:
        """Make it.

        Args:
            collectors: By attempt id, who gets the ended spans too; shared by the processors of a process.
            stamping: True where the provider is not ours, so that its sampler cannot stamp.
        """
        self._collectors = collectors
        self._stamping = stamping
        self._unsampled: dict[int, str] = {}
        """Why spans of a provider that is not ours are not kept, by span id, while they run."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Stamp the span and note that it is open."""
        with _START:
            if self._stamping:
                more = inherited(parent_context)
                if more:
                    own = span.attributes or {}
                    span.set_attributes({key: value for key, value in more.items() if key not in own})
                rollout = running.get() or home_rollout()
                if rollout is not None:
                    span.set_attribute(semconv.ROLLOUT_ID, rollout.rollout_id)
                    span.set_attribute(semconv.ATTEMPT_ID, rollout.attempt_id)
                if not (quick.is_plain or quick.look().is_plain) or semconv.KEEP in (span.attributes or {}):
                    self._decide(span, parent_context, rollout)
            pipeline = get_pipeline()
            pipeline.open_spans.recent[span.get_span_context().span_id] = span
            if pipeline.queue.sleeping:
                pipeline.queue.wake.set()

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the span over; spans that were not sampled never come here as recording ones."""
        with _END:
            context = span.get_span_context()
            if context is not None:
                if self._stamping and not context.trace_flags.sampled:
                    drop(span, "not_recorded")
                    return  # a sampler of the program's said so
                lost = self._unsampled.pop(context.span_id, None) if self._unsampled else None
                if lost is not None:
                    if lost == "filtered" or policy().tail is None:
                        get_pipeline().open_spans.recent.pop(context.span_id, None)
                        get_pipeline().queue.refuse(lost)
                        drop(span, lost)
                        return
                    setattr(span, UNSAMPLED, lost)  # it is another object than the one that started
                get_pipeline().open_spans.recent.pop(context.span_id, None)
            attempt_id = (span.attributes or {}).get(semconv.ATTEMPT_ID) if self._collectors else None
            self.finish(span, attempt_id if isinstance(attempt_id, str) else None)

    def _decide(self, span: Span, parent_context: Context | None, rollout: RunningRollout | None) -> None:
        """Decide on a span of a provider whose sampler is not ours; it is recorded for the program in any case."""
        parent = get_current_span(parent_context).get_span_context()
        trace_id = span.get_span_context().trace_id
        verdict = policy().decide(span.name, span.attributes, trace_id, parent, rollout, stateful=False)
        if verdict.lost:
            self._unsampled[span.get_span_context().span_id] = verdict.lost
            setattr(span, UNSAMPLED, verdict.lost)
        elif verdict.probability < 1:
            span.set_attribute(semconv.INCLUSION, verdict.probability)

    def finish(self, span: ReadableSpan, attempt_id: str | None) -> None:
        """Hand a span over that was not announced as open; *attempt_id* is its stamp."""
        if attempt_id is not None and self._collectors:
            collector = self._collectors.get(attempt_id)
            if collector is not None:
                collector.on_end(span)
        get_pipeline().hand_over(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until every span that ended is in its store; False when that took longer.

        In a provider of the program's at most the setting ``flush_timeout_s``, and always True: False would keep the
        processors behind this one from their flush, and the program asks for its own exporters.
        """
        if not self._stamping:
            return flush(timeout_millis / 1000)
        with guard("processor.force_flush"):
            flush(min(timeout_millis / 1000, settings.get(settings.FLUSH_TIMEOUT_S)))
        return True

    def shutdown(self) -> None:
        """Flush. The provider may be gone after this; the pipeline serves others too and goes on."""
        with guard("processor.shutdown"):
            if current_pipeline() is not None:
                flush(settings.get(settings.FLUSH_TIMEOUT_S))
