"""What every tracer offers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from agentlightning.types.core import ParallelWorkerBase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.context import TraceContext

P = ParamSpec("P")
T = TypeVar("T")


class Tracer(ParallelWorkerBase):
    """Traces functions and blocks of code into rollouts. Lifecycle: init, init_worker, teardown_worker, teardown.

    A tracer may be used without ``init``; the first ``trace_context`` does what is missing. Thread-safe.
    """

    @abstractmethod
    def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> TraceContext:
        """Return a context, for ``with`` and ``async with``, whose spans belong to one attempt of one rollout.

        Any number may run at once, in threads and tasks. Leaving it returns when its ended spans can be read from the
        store, or after the setting ``flush_timeout_s`` with a warning.

        Args:
            name: Shown as the input of a rollout that the context makes.
            store: Where the spans go; default: the default store, inside ``agl run`` the run's.
            rollout_id: Existing rollout, together with *attempt_id*; default: a new one.
            attempt_id: Existing attempt of *rollout_id*.

        Raises:
            ValueError: Only one of the two ids is given.
        """

    @abstractmethod
    def get_last_trace(self) -> list[ReadableSpan]:
        """Return the spans, at most 10,000, of the context that was closed last here, else in the process."""

    def trace_run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *func* in a ``trace_context`` and return what it returns."""
        with self.trace_context(getattr(func, "__qualname__", None)):
            return func(*args, **kwargs)

    async def trace_run_async(
        self,
        func: Callable[P, Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Await *func* in a ``trace_context`` and return what it returns."""
        async with self.trace_context(getattr(func, "__qualname__", None)):
            return await func(*args, **kwargs)
