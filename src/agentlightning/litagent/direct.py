"""A direct call of an agent, traced: a rollout of its own, or an agent span inside the running one.

The caller gets the original result or exception, the same object; errors of telemetry stay inside.
"""

from __future__ import annotations

import functools
import json
import logging
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning import semconv, settings
from agentlightning._internal.clock import now_ns
from agentlightning._internal.context import home_rollout, running
from agentlightning._internal.guard import guard
from agentlightning._internal.ids import new_attempt_id, new_rollout_id
from agentlightning.emitter import emit_exception
from agentlightning.emitter.object import object_attributes
from agentlightning.instrumentation.attribute import AGENT_NAME, input_attributes, output_attributes
from agentlightning.instrumentation.operation import Operation
from agentlightning.litagent.result import MixedResultError, record_result
from agentlightning.litagent.signature import rollout_of_call
from agentlightning.pipeline.process import get_pipeline
from agentlightning.semconv import SpanAttributeNames
from agentlightning.tracer.otel import OtelTracer
from agentlightning.tracer.provider import get_tracer
from agentlightning.types.record import AttemptEnd, RolloutStart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from typing_extensions import Self

    from agentlightning.instrumentation.attribute import Attributes
    from agentlightning.tracer.context import TraceContext
    from agentlightning.types.core import AttemptedRollout

R = TypeVar("R")

log = logging.getLogger("agentlightning.litagent")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a call by place and by name."""


def call(name: str, function: Callable[..., R], arguments: Arguments, *, lacks_rollout: bool = False) -> R:
    """Call *function* as the agent *name*, with the rollout when that is missing, and return what it returns."""
    args, kwargs = arguments
    with _scope(name, arguments) as scope:
        if lacks_rollout:
            kwargs = {**kwargs, "rollout": scope.rollout(_task(arguments))}
        result = scope.result = function(*args, **kwargs)
    return result


async def call_async(
    name: str, function: Callable[..., Awaitable[R]], arguments: Arguments, *, lacks_rollout: bool = False
) -> R:
    """Await *function* as the agent *name*, with the rollout when that is missing, and return what it returns."""
    args, kwargs = arguments
    async with _scope(name, arguments) as scope:
        if lacks_rollout:
            kwargs = {**kwargs, "rollout": scope.rollout(_task(arguments))}
        result = scope.result = await function(*args, **kwargs)
    return result


class _Scope(AbstractContextManager["_Scope"], AbstractAsyncContextManager["_Scope"]):
    """A block that is traced; what the function returned is put into ``result``."""

    result: object = None

    def rollout(self, task: object) -> AttemptedRollout:
        """Return the rollout that the block is in, as far as it is known here without asking the store."""
        outer = running.get() or home_rollout()
        return rollout_of_call(task, (outer.rollout_id, outer.attempt_id) if outer else None)

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.__exit__(exc_type, exc, traceback)


class _AgentSpan(_Scope):
    """A span of the kind AGENT in the running rollout."""

    def __init__(self, name: str, arguments: Arguments) -> None:
        self._name = name
        self._arguments = arguments
        self._operation: _AgentCall | None = None
        self._current: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        with guard("litagent.call"):
            self._operation = operation = _AgentCall(get_tracer(), self._name, *self._arguments)
            operation.start()
            self._current = operation.current()
            self._current.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        with guard("litagent.call"):
            if self._operation is None or self._current is None:
                return
            self._current.__exit__(exc_type, exc, traceback)
            if exc is None:
                self._operation.succeed(lambda: output_attributes(self.result))
            else:
                self._operation.fail(exc)


class _AgentCall(Operation):
    """One call of an agent function."""

    def name(self) -> str:
        """Return the name of the agent."""
        return str(self.owner)

    def request_attributes(self) -> Attributes:
        """Return name and task."""
        task = input_attributes(_task((self.args, self.kwargs)))
        return {semconv.OPENINFERENCE_KIND: "AGENT", AGENT_NAME: self.name(), **task}


class _DirectRollout(_Scope):
    """A rollout with one attempt in the default store."""

    def __init__(self, name: str, arguments: Arguments) -> None:
        self._name = name
        self._arguments = arguments
        self._ids = new_rollout_id(), new_attempt_id()
        self._context: TraceContext | None = None

    def __enter__(self) -> Self:
        with guard("litagent.call"):
            self._begin()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        context = self._finish(exc)
        if context is not None:
            context.__exit__(None, None, None)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        context = self._finish(exc)
        if context is not None:
            await context.__aexit__(None, None, None)

    def rollout(self, task: object) -> AttemptedRollout:
        """Return the rollout of this call."""
        return rollout_of_call(task, self._ids)

    def _begin(self) -> None:
        rollout_id, attempt_id = self._ids
        start = RolloutStart(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            project=settings.get(settings.PROJECT),
            input=_plain(_task(self._arguments)),
            start_ns=now_ns(),
            metadata={"agent": self._name},
        )
        context = _tracer().trace_context(self._name, rollout_id=rollout_id, attempt_id=attempt_id)
        get_pipeline().start_rollout(start, None)
        context.__enter__()
        self._context = context

    def _finish(self, exc: BaseException | None) -> TraceContext | None:
        if self._context is None:
            return None
        rollout_id, attempt_id = self._ids
        well = exc is None or (isinstance(exc, SystemExit) and exc.code in (None, 0))
        with guard("litagent.result"):
            if exc is None:
                self._record(rollout_id, attempt_id)
            elif not well:
                emit_exception(exc)
        with guard("litagent.call"):
            status = "succeeded" if well else "failed"
            get_pipeline().end_attempt(
                AttemptEnd(rollout_id=rollout_id, attempt_id=attempt_id, status=status, end_ns=now_ns())
            )
        return self._context

    def _record(self, rollout_id: str, attempt_id: str) -> None:
        try:
            record_result(self.result, agent=self._name, rollout_id=rollout_id, attempt_id=attempt_id, writer=None)
        except MixedResultError as error:
            # The caller gets its list all the same: only a runner may fail an attempt for it.
            log.error("%s", error)  # noqa: TRY400 - the traceback is our own


def _scope(name: str, arguments: Arguments) -> _Scope:
    if (running.get() or home_rollout()) is None:
        return _DirectRollout(name, arguments)
    return _AgentSpan(name, arguments)


def _task(arguments: Arguments) -> object:
    args, kwargs = arguments
    return args[0] if args else kwargs.get("task")


def _plain(value: object) -> object:
    """Return *value* as JSON can hold it; a text, the usual case, as it is."""
    return value if isinstance(value, str) else json.loads(str(object_attributes(value)[SpanAttributeNames.OBJECT]))


@functools.lru_cache(maxsize=1)
def _tracer() -> OtelTracer:
    return OtelTracer()
