"""Recording model calls by wrapping the methods of model classes, for models that no span tells of.

Models of smolagents need none of it: importing the framework, ``TelemetryManager.initialize`` or ``agl run`` records
them from their spans, in full and once. Here is what programs use by hand, and what works for any class with a
``generate`` method.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import time
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agentlightning import span_attributes
from agentlightning.errors import MissingExtraError
from agentlightning.instrumentation import registry
from ai_agents.telemetry.agent import TelemetryContext, TelemetryInstrumentedAgent, telemetry_context
from ai_agents.telemetry.loose import now
from ai_agents.telemetry.stream import RECORDED
from ai_agents.telemetry.types import LLMCall

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from contextlib import AbstractContextManager

    from ai_agents.telemetry.collector import TelemetryCollector
    from ai_agents.telemetry.error_handler import TelemetryErrorHandler

    C = TypeVar("C", bound=type)

__all__ = [
    "AgentInstrumentor",
    "TelemetryContext",
    "TelemetryInstrumentedAgent",
    "instrument_smolagents_models",
    "telemetry_context",
]

_METHODS = ("generate", "generate_stream")
_inside: ContextVar[object] = ContextVar("ai_agents_recorded_model", default=None)
"""Model whose call is being recorded: what it calls on itself is part of it."""

_OURS = "_ai_agents_method"
"""Attribute of our wrappers, by which a second collector finds them."""

_ABSENT = object()
_lock = threading.RLock()


class AgentInstrumentor:
    """Wraps model classes so that every call is recorded with a collector. Thread-safe, as wrapped calls are.

    Several may wrap the same class: each collector gets every call, and the last to leave puts the class back.
    """

    def __init__(self, collector: TelemetryCollector, error_handler: TelemetryErrorHandler) -> None:
        """Record with *collector*; what fails here goes to *error_handler* and never to the agent."""
        self.collector = collector
        self.error_handler = error_handler
        self._instrumented_classes: list[type] = []
        self._original_methods: dict[str, Callable[..., object]] = {}
        self._methods: list[_Method] = []

    def instrument_model_calls(self, model_class: C) -> C:
        """Wrap the methods ``generate`` and ``generate_stream`` that *model_class* defines itself; return the class.

        A second call for the class does nothing. Inherited methods are left to the class that defines them.
        """
        with _lock:
            if model_class in self._instrumented_classes:
                return model_class
            for name in _METHODS:
                current = vars(model_class).get(name)
                if callable(current) and not isinstance(current, (staticmethod, classmethod)):
                    method = _wrapped_already(current) or _Method(model_class, name)
                    method.watchers = (*method.watchers, self)
                    self._methods.append(method)
                    key = f"{model_class.__module__}.{model_class.__qualname__}.{name}"
                    self._original_methods[key] = method.original
            self._instrumented_classes.append(model_class)
        return model_class

    def uninstrument_all(self) -> None:
        """Put back every method that is still ours and that nobody else watches. A second call does nothing."""
        with _lock:
            while self._methods:
                method = self._methods.pop()
                method.watchers = tuple(one for one in method.watchers if one is not self)
                if not method.watchers:
                    method.restore()
            self._instrumented_classes.clear()
            self._original_methods.clear()

    def is_wanted_for(self, model: object) -> bool:
        """Tell whether a call of *model* is to be recorded: no span tells the collector of it already."""
        if getattr(self.collector, "is_fed_by_spans", False) is not True:
            return True
        models: Any = sys.modules.get("smolagents.models")
        return models is None or not isinstance(model, models.Model) or "smolagents" not in registry.active()


class _Method:
    """One wrapped method, and who wants to know of its calls."""

    def __init__(self, model_class: type, name: str) -> None:
        self.original: Callable[..., object] = vars(model_class)[name]
        self.watchers: tuple[AgentInstrumentor, ...] = ()
        self._class, self._name = model_class, name
        self._wrapper = self._wrap(streams=name == "generate_stream")
        setattr(model_class, name, self._wrapper)

    def restore(self) -> None:
        """Put the original back, unless somebody has put something else there since."""
        if vars(self._class).get(self._name, _ABSENT) is self._wrapper:
            setattr(self._class, self._name, self.original)

    def _wrap(self, *, streams: bool) -> Callable[..., object]:
        original = self.original

        @functools.wraps(original)
        def wrapper(model: object, *args: object, **kwargs: object) -> object:
            """Call the method of the model, and have its call recorded where somebody wants it; errors are its own."""
            watchers = [one for one in self.watchers if one.is_wanted_for(model)]
            if not watchers or _inside.get() is model:
                return original(model, *args, **kwargs)
            call = _Call(watchers, model)
            if streams:
                return call.follow(functools.partial(original, model, *args, **kwargs))
            with call.block():
                try:
                    result = original(model, *args, **kwargs)
                except BaseException:
                    call.record(failed=True)
                    raise
            call.count(result if hasattr(result, "token_usage") else _LastCall(model))
            call.record()
            return result

        setattr(wrapper, _OURS, self)
        return wrapper


def _wrapped_already(function: object) -> _Method | None:
    """Return our wrapping of a method, on which others may have put theirs; None where nobody watches it."""
    while function is not None:
        method = vars(function).get(_OURS) if hasattr(function, "__dict__") else None
        if isinstance(method, _Method) and method.watchers:
            return method
        function = getattr(function, "__wrapped__", None)
    return None


class _LastCall:
    """What smolagents below 1.18 says of a call's tokens: the counts of the last one, on the model."""

    def __init__(self, model: object) -> None:
        self.token_usage = self
        self.input_tokens: object = getattr(model, "last_input_token_count", None)
        self.output_tokens: object = getattr(model, "last_output_token_count", None)


class _Call:
    """One call on its way to the collector."""

    def __init__(self, watchers: list[AgentInstrumentor], model: object) -> None:
        self._watchers = watchers
        self._model = model
        self._began = time.perf_counter()
        self._prompt = self._completion = 0
        self._counted = False

    def block(self) -> AbstractContextManager[None]:
        """Return the block around the call."""
        return _Block(self._model)

    def count(self, item: object) -> None:
        """Add the tokens that a message or a part of one reports."""
        usage = getattr(item, "token_usage", None)
        prompt, completion = getattr(usage, "input_tokens", None), getattr(usage, "output_tokens", None)
        if isinstance(prompt, int) or isinstance(completion, int):
            self._counted = True
            self._prompt += prompt if isinstance(prompt, int) else 0
            self._completion += completion if isinstance(completion, int) else 0

    def follow(self, begin: Callable[[], object]) -> Generator[object, object, object]:
        """Pass a stream on and record it once, however it ends; a stream that nobody reads is no call."""
        self._began = time.perf_counter()
        items: Iterator[object] | None = None
        try:
            while True:
                with self.block():
                    items = iter(cast("Iterable[object]", begin())) if items is None else items
                    item = next(items)
                self.count(item)
                yield item
        except StopIteration as stop:
            self.record()
            return stop.value
        except GeneratorExit:
            close = getattr(items, "close", None)
            try:
                if close is not None:
                    close()
            finally:
                self.record()
            raise
        except BaseException:
            self.record(failed=True)
            raise

    def record(self, *, failed: bool = False) -> None:
        """Hand the call to the collectors."""
        seconds = time.perf_counter() - self._began
        for watcher in self._watchers:
            try:
                self._record(watcher.collector, seconds, failed=failed)
            except Exception as error:  # noqa: BLE001 - the agent goes on whatever our collector does
                with contextlib.suppress(Exception):  # a handler of the program's may fail too
                    watcher.error_handler.handle_instrumentation_error(error, "record_llm_call")

    def _record(self, collector: TelemetryCollector, seconds: float, *, failed: bool) -> None:
        name = getattr(self._model, "model_id", None)
        prompt, completion = (0, 0) if failed else (self._prompt, self._completion)
        call = LLMCall(
            name if isinstance(name, str) else type(self._model).__name__,
            prompt,
            completion,
            prompt + completion,
            seconds,
            now() - timedelta(seconds=seconds),
            failed=failed,
            usage_missing=not self._counted,
        )
        task_id, agent_id = _current_ids()
        collector.record_llm_call(call, task_id=task_id, agent_id=agent_id)


class _Block:
    """Block in which a model's call runs: spans inside it are not counted again."""

    def __init__(self, model: object) -> None:
        self._model = model
        self._spans = span_attributes({RECORDED: True})

    def __enter__(self) -> None:
        self._token = _inside.set(self._model)
        self._spans.__enter__()

    def __exit__(self, *_: object) -> None:
        self._spans.__exit__(None, None, None)
        _inside.reset(self._token)


def instrument_smolagents_models(
    collector: TelemetryCollector, error_handler: TelemetryErrorHandler
) -> AgentInstrumentor:
    """Wrap every model class of smolagents that is there, and return the instrumentor, which can undo it.

    An error is handed to *error_handler*; the instrumentor is returned all the same.

    Raises:
        MissingExtraError: smolagents is not installed.
    """
    instrumentor = AgentInstrumentor(collector, error_handler)
    try:
        for model_class in _model_classes():
            instrumentor.instrument_model_calls(model_class)
    except MissingExtraError:
        raise
    except Exception as error:  # noqa: BLE001 - telemetry never keeps a program from its work
        error_handler.handle_instrumentation_error(error, "smolagents_models")
    return instrumentor


def _model_classes() -> list[type]:
    """Return ``Model`` of smolagents with all its subclasses, parents first."""
    try:
        from smolagents import models  # noqa: PLC0415 - optional
    except ImportError:
        extra = "smolagents"
        raise MissingExtraError(extra, "instrumenting the models of smolagents") from None
    found: list[type] = []
    waiting: list[type] = [models.Model]
    while waiting:
        model_class = waiting.pop(0)
        if model_class not in found and inspect.isclass(model_class):
            found.append(model_class)
            waiting.extend(model_class.__subclasses__())
    return found


def _current_ids() -> tuple[str | None, str | None]:
    """Return the ids of the task and agent that the framework runs here."""
    tracing: Any = sys.modules.get("ai_agents.lib.tracing")  # a higher layer: asked only if somebody uses it
    if tracing is None:
        return None, None
    return tracing.get_current_task_id(), tracing.get_current_agent_id()
