"""smolagents 1.15 and newer: a span for each agent run, model call and tool call, so that a run is one tree.

Methods are wrapped where a class defines them itself, and classes defined later are caught by a hook in
``__init_subclass__``; inherited methods are never wrapped twice. Static and class methods, and methods set on an
instance, are left alone. Tools that run in a remote sandbox (e2b, docker, ...) cannot be seen.

OpenInference's instrumentor for smolagents may run too, begun before or after this one. While it does, agents and tools
are its to record, and so are the models it knows; model classes that it passes over (it wraps only those that the
library exports) are recorded here. So each call has one span. Its spans come to us where its tracer provider is ours.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from opentelemetry import trace

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning._internal.passing import pass_on
from agentlightning.instrumentation.base import Instrumentor, Patches
from agentlightning.instrumentation.operation import Operation, call, is_inside
from agentlightning.instrumentation.smolagents_operation import AgentRun, ModelCall, PlanningStep, ToolUse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Tracer, TracerProvider

_OPENINFERENCE = "openinference.instrumentation.smolagents"

T = TypeVar("T")
P = ParamSpec("P")


class SmolagentsInstrumentor(Instrumentor):
    """Makes smolagents write spans."""

    name = "smolagents"
    modules = ("smolagents",)

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._patches = Patches()
        self._switch = _Switch()

    def _install(self, tracer_provider: TracerProvider) -> None:
        from smolagents import agents, local_python_executor, models, tools  # noqa: PLC0415 - optional

        tracer = tracer_provider.get_tracer(__name__)
        # A new switch each time: wrappers that somebody still holds from before must stay off.
        self._switch = _Switch(on=True)
        wrap = functools.partial(_Wrapping, self._patches, self._switch, tracer)
        wrap(models.Model, ModelCall, ("generate", "generate_stream")).install()
        if _openinference_runs():
            return  # it puts back what it found, so what we wrapped around it would be lost when it stops
        # Below 1.19 there is no BaseTool, and Tool is the root.
        wrap(getattr(tools, "BaseTool", tools.Tool), ToolUse, ("__call__",)).install()
        wrap(agents.MultiStepAgent, AgentRun, ("run",)).install()
        wrap(agents.MultiStepAgent, PlanningStep, ("_generate_planning_step", "planning_step")).install()
        # Newer releases run generated code in a thread of its own, and some run tools in threads, without the
        # context of the run.
        for module in (local_python_executor, agents):
            if vars(module).get("ThreadPoolExecutor") is ThreadPoolExecutor:
                self._patches.replace(module, "ThreadPoolExecutor", _ContextExecutor)

    def _remove(self) -> None:
        self._switch.on = False
        self._patches.restore()


class _Switch:
    """Whether wrappers record; one that could not be taken off again passes its calls through."""

    def __init__(self, *, on: bool = False) -> None:
        self.on = on


class _ContextExecutor(ThreadPoolExecutor):
    """Thread pool whose calls run in the context of whoever submitted them."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit *fn* with a copy of the caller's context variables."""
        return super().submit(copy_context().run, fn, *args, **kwargs)


class _Wrapping:
    """Wraps some methods of a class and of all its subclasses, those to come included."""

    def __init__(
        self,
        patches: Patches,
        switch: _Switch,
        tracer: Tracer,
        root: type,
        operation: type[Operation],
        methods: tuple[str, ...],
    ) -> None:
        self._patches = patches
        self._switch = switch
        self._tracer = tracer
        self._root = root
        self._operation = operation
        self._methods = methods

    def install(self) -> None:
        """Wrap what is there and hook what will come."""
        seen: set[type] = set()
        waiting = [self._root]
        while waiting:
            cls = waiting.pop()
            if cls not in seen:
                seen.add(cls)
                waiting.extend(cls.__subclasses__())
                self._wrap_class(cls)
        self._hook_subclassing()

    def _wrap_class(self, cls: type) -> None:
        """Wrap the methods that *cls* defines itself."""
        for method in self._methods:
            original = vars(cls).get(method)
            if not inspect.isfunction(original) or getattr(original, "__isabstractmethod__", False):
                continue
            if not _is_openinference(original):
                self._patches.replace(cls, method, self._wrapper(original))

    def _wrapper(self, original: Callable[..., object]) -> Callable[..., object]:
        switch, tracer, operation_class = self._switch, self._tracer, self._operation

        @functools.wraps(original)
        def wrapper(self: object, /, *args: object, **kwargs: object) -> object:
            """Call the method inside a span, unless another part records the call."""
            operation: Operation | None = None
            if switch.on and (operation_class.is_part or not is_inside(self)):
                with guard("smolagents.call"):
                    if not _is_recorded_elsewhere(operation_class):
                        operation = operation_class(tracer, self, args, kwargs)
            if operation is None:
                return original(self, *args, **kwargs)
            if _is_lazy(original, args, kwargs):
                result = original(self, *args, **kwargs)
                return pass_on(cast("Iterator[object]", result), operation) if isinstance(result, Iterator) else result
            return call(operation, original)

        return wrapper

    def _hook_subclassing(self) -> None:
        """Make ``__init_subclass__`` of the root wrap each new class after whatever it does itself."""
        root, switch, wrap_class = self._root, self._switch, self._wrap_class
        own = vars(root).get("__init_subclass__")

        def __init_subclass__(cls: type, **kwargs: object) -> None:  # noqa: N807 - it becomes that method
            if own is not None:
                own.__get__(None, cls)(**kwargs)
            else:
                super(root, cls).__init_subclass__(**kwargs)
            if switch.on:
                with guard("smolagents.subclass"):
                    wrap_class(cls)

        self._patches.replace(root, "__init_subclass__", cast("object", classmethod(__init_subclass__)))


def _openinference_runs() -> bool:
    """Tell whether OpenInference's instrumentor is at work now; it may be begun and ended at any time."""
    theirs = sys.modules.get(_OPENINFERENCE)
    return theirs is not None and theirs.SmolagentsInstrumentor().is_instrumented_by_opentelemetry


def _is_openinference(function: object) -> bool:
    """Tell whether a method is OpenInference's wrapper around the library's own."""
    wrapper = getattr(function, "_self_wrapper", None)
    return type(wrapper).__module__.startswith(_OPENINFERENCE)


def _is_recorded_elsewhere(operation: type[Operation]) -> bool:
    """Tell whether OpenInference's instrumentor records the call that is being made."""
    if _OPENINFERENCE not in sys.modules or not _openinference_runs():
        return False
    if operation is not ModelCall:
        return True
    span = trace.get_current_span()
    scope: object = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    attributes = cast("Mapping[str, object]", getattr(span, "attributes", None) or {})
    kind = attributes.get(semconv.OPENINFERENCE_KIND)
    return scope == _OPENINFERENCE and kind == "LLM"


def _is_lazy(original: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
    """Tell whether a call gives an iterator to read from: ``generate_stream``, ``run(stream=True)``, planning."""
    if original.__name__ == "run":
        return bool(kwargs.get("stream", args[1] if len(args) > 1 else False))
    return original.__name__ == "generate_stream" or inspect.isgeneratorfunction(inspect.unwrap(original))
