"""The default tracer: OpenTelemetry, with the instrumentors of the libraries that the program uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentlightning import settings
from agentlightning._internal.guard import guard
from agentlightning.instrumentation import registry
from agentlightning.pipeline.process import flush
from agentlightning.tracer.auto import provider
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.context import TraceContext, last_trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.store.base import LightningStore


class OtelTracer(Tracer):
    """Traces with the program's own tracer provider, or one that it makes."""

    def __init__(self) -> None:
        """Make a tracer; nothing is instrumented before ``init`` or the first ``trace_context``."""
        super().__init__()
        self._ready = False

    def __getstate__(self) -> dict[str, Any]:
        """Forget that libraries are instrumented: in the process that unpickles the tracer they are not."""
        return {**self.__dict__, "_ready": False}

    def init(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base class
        """Instrument the libraries that are imported or will be; a second call does nothing."""
        super().init(*args, **kwargs)
        self._prepare()

    def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base class
        """Do in a worker process what ``init`` does."""
        super().init_worker(worker_id, *args, **kwargs)
        self._prepare()

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base class
        """Write what is waiting."""
        flush()
        super().teardown_worker(worker_id, *args, **kwargs)

    def teardown(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base class
        """Write what is waiting. Libraries stay instrumented: other tracers and ``agl run`` may use them."""
        flush()
        super().teardown(*args, **kwargs)

    def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> TraceContext:
        """Return a context whose spans belong to one rollout; see ``Tracer.trace_context``."""
        self._prepare()
        return TraceContext(name, store=store, rollout_id=rollout_id, attempt_id=attempt_id)

    def get_last_trace(self) -> list[ReadableSpan]:
        """Return the spans of the context that was closed last; see ``Tracer.get_last_trace``."""
        return last_trace.get()

    def _prepare(self) -> None:
        if not self._ready:
            self._ready = True
            with guard("tracer.prepare"):
                if settings.get(settings.ENABLED):
                    if settings.get(settings.HTTP):
                        from agentlightning.instrumentation.http import record_http  # noqa: PLC0415 - where asked for

                        record_http()
                    registry.watch(provider)
                    provider()
