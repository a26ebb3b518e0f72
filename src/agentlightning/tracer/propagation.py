"""The running rollout and span go on in threads and executors.

Only our own state travels: a thread does not see the context variables of the program that it would not see anyway.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import thread as pool
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace as trace_api

from agentlightning._internal.context import running
from agentlightning._internal.guard import guard
from agentlightning.instrumentation import registry
from agentlightning.instrumentation.base import Instrumentor, Patches
from agentlightning.tracer.children import MultiprocessingInstrumentor, SubprocessInstrumentor

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import TracerProvider

P = ParamSpec("P")
T = TypeVar("T")

_CARRIED = "_agentlightning_context"
"""Attribute of a thread object that carries the state from ``start`` to the thread."""


class _Carrier:
    """Rollout and span of the thread that made it."""

    def __init__(self) -> None:
        self._rollout = running.get()
        self._context = otel_context.get_current()

    @staticmethod
    def needed() -> bool:
        """Tell whether there is anything to carry."""
        return running.get() is not None or trace_api.get_current_span() is not trace_api.INVALID_SPAN

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function* with the carried state and put the thread's own back."""
        rollout_token = running.set(self._rollout)
        context_token = otel_context.attach(self._context)
        try:
            return function(*args, **kwargs)
        finally:
            otel_context.detach(context_token)
            running.reset(rollout_token)


class ThreadingInstrumentor(Instrumentor):
    """Hands the running rollout and span to new threads and to what a thread pool runs."""

    name: ClassVar[str] = "threading"
    modules: ClassVar[tuple[str, ...]] = ("threading",)

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._patches = Patches()

    def _install(self, tracer_provider: TracerProvider) -> None:
        _ = tracer_provider  # threads use the tracers that are there
        thread: Any = threading.Thread
        self._patches.replace(thread, "start", _carrying_start(thread.start))
        # Not run(): a subclass that overrides it need not call ours. And both this and run() of a work item catch what
        # the program raises, so no frame of ours is ever in a traceback.
        self._patches.replace(thread, "_bootstrap_inner", _carried_bootstrap(thread._bootstrap_inner))  # noqa: SLF001 - see above
        item: Any = pool._WorkItem  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self._patches.replace(item, "__init__", _carrying_item(item.__init__))
        self._patches.replace(item, "run", _carried_run(item.run))

    def _remove(self) -> None:
        self._patches.restore()


def install() -> None:
    """Carry the running rollout into threads, executors, programs and processes. A second call does nothing."""
    registry.register(ThreadingInstrumentor.name, ThreadingInstrumentor.modules, ThreadingInstrumentor)
    registry.register(SubprocessInstrumentor.name, SubprocessInstrumentor.modules, SubprocessInstrumentor)
    registry.register(
        MultiprocessingInstrumentor.name, MultiprocessingInstrumentor.modules, MultiprocessingInstrumentor
    )


def _carrying_start(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def start(thread: threading.Thread) -> None:
        """Start the thread with what the caller's context carries, where it carries anything."""
        with guard("threading.start"):
            if _Carrier.needed():
                setattr(thread, _CARRIED, _Carrier())
        original(thread)

    return start


def _carried_bootstrap(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def bootstrap(thread: threading.Thread) -> None:
        """Run the thread in what it was started with."""
        carrier: _Carrier | None = thread.__dict__.pop(_CARRIED, None)
        if carrier is None:
            original(thread)
        else:
            carrier.run(original, thread)

    return bootstrap


def _carrying_item(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(item: object, *args: object, **kwargs: object) -> None:
        """Make the work item, with what the submitter's context carries."""
        original(item, *args, **kwargs)
        with guard("threading.submit"):
            # A worker thread may carry the state of the task that started it: each task brings its own, even if empty.
            setattr(item, _CARRIED, _Carrier())

    return init


def _carried_run(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def run(item: object, *args: object) -> None:
        """Run the work item in what it was submitted with."""
        carrier: _Carrier | None = item.__dict__.pop(_CARRIED, None)
        if carrier is None:
            original(item, *args)
        else:
            carrier.run(original, item, *args)

    return run
