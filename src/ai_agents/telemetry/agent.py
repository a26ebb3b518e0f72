"""An agent with its task: a wrapper that records runs, and the block that begins and ends the task around one."""

from __future__ import annotations

import inspect
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, cast

from opentelemetry import trace

import agentlightning
from agentlightning import span_attributes
from agentlightning.tracer.inherited import is_in_rollout
from ai_agents.telemetry.collector import shorten
from ai_agents.telemetry.error_handler import get_error_handler, safe_telemetry_operation
from ai_agents.telemetry.stream import AGENT_ID, AGENT_PARENT, TASK_ID
from ai_agents.telemetry.types import AgentType, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from ai_agents.telemetry.collector import TelemetryCollector

_TITLE = 200
"""Characters of a task that a rollout is listed under."""


class _Agent(Protocol):
    def run(self, *args: object, **kwargs: object) -> object:
        """Do a task and return its result, or its steps one by one where it streams."""
        ...


class TelemetryInstrumentedAgent:
    """An agent whose runs are recorded; it is like the agent itself in everything else.

    Attributes are read from and written to the agent, and ``isinstance`` sees its class.
    """

    _OWN = frozenset({"_agent", "_agent_name", "_micro_agent_name", "_agent_type", "_telemetry_collector", "_task_id"})

    def __init__(
        self,
        agent: object,
        agent_name: str | None = None,
        agent_type: AgentType | None = None,
        telemetry_collector: TelemetryCollector | None = None,
        micro_agent_name: str | None = None,
        task_id: str | None = None,
    ) -> None:
        """Wrap *agent*, anything with ``run`` or ``__call__``; without a collector it is passed through as it is."""
        self._agent = cast("_Agent", agent)
        self._agent_name = agent_name or type(agent).__name__
        self._micro_agent_name = micro_agent_name
        self._agent_type = agent_type or AgentType.MICRO
        self._telemetry_collector = telemetry_collector
        self._task_id = task_id

    @property
    def __class__(self) -> type[object]:  # pyright: ignore[reportIncompatibleMethodOverride] - isinstance() looks here
        """Class of the agent."""
        agent: object = self._agent
        return type(agent)

    def run(self, task: object, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - the agent's own answer
        """Run the agent; its result or exception is passed on."""
        if self._telemetry_collector is None:
            return self._agent.run(task, *args, **kwargs)
        return self._record(self._agent.run, (task, *args), kwargs)

    def __call__(self, task: object, **kwargs: object) -> Any:  # noqa: ANN401 - the agent's own answer
        """Call the agent; its result or exception is passed on."""
        call: Callable[..., object] = getattr(self._agent, "__call__")  # noqa: B004, B009 - an attribute of the instance counts too
        if self._telemetry_collector is None:
            return call(task, **kwargs)
        return self._record(call, (task,), kwargs)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the agent's own
        """Return an attribute of the agent."""
        if name in TelemetryInstrumentedAgent._OWN:  # not set yet, as in a copy under way
            raise AttributeError(name)
        return getattr(self._agent, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute of the agent."""
        if name in TelemetryInstrumentedAgent._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self._agent, name, value)

    def _record(self, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        execution = _Execution(self)
        try:
            with execution.block():
                result = function(*args, **kwargs)
        except BaseException as error:
            execution.fail(error)
            raise
        if inspect.isgenerator(result):
            return execution.follow(cast("Generator[object, object, object]", result))
        execution.end(TaskStatus.PARTIAL if _hit_limit(result) else TaskStatus.COMPLETED)
        return result


class _Execution:
    """One run of a wrapped agent."""

    def __init__(self, wrapper: TelemetryInstrumentedAgent) -> None:
        state = {name: object.__getattribute__(wrapper, name) for name in TelemetryInstrumentedAgent._OWN}  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self._collector: TelemetryCollector = state["_telemetry_collector"]
        kind, name = state["_agent_type"], state["_micro_agent_name"] or state["_agent_name"]
        self._id = f"{kind.value}_{name}_{uuid.uuid4().hex[:8]}"
        self._task_id: str | None = state["_task_id"]
        with safe_telemetry_operation("start_agent_execution"):
            self._collector.start_agent_execution(
                agent_id=self._id, agent_type=kind, agent_name=name, task_id=self._task_id
            )

    def block(self) -> AbstractContextManager[None]:
        """Return a block whose spans are known to belong to this run."""
        current = trace.get_current_span().get_span_context()
        parent = f"{current.span_id:016x}" if current.is_valid else ""
        return span_attributes({AGENT_ID: self._id, AGENT_PARENT: parent})

    def follow(self, items: Generator[object, object, object]) -> Generator[object, object, object]:
        """Pass a stream on; the run ends with it."""
        try:
            result = yield from items
        except GeneratorExit:
            self.end(TaskStatus.CANCELLED)
            raise
        except BaseException as error:
            self.fail(error)
            raise
        self.end(TaskStatus.COMPLETED)
        return result

    def fail(self, error: BaseException) -> None:
        """End the run with an error; one that is no ``Exception`` cancelled it."""
        status = TaskStatus.FAILED if isinstance(error, Exception) else TaskStatus.CANCELLED
        self.end(status, describe(error))

    def end(self, status: TaskStatus, error_message: str | None = None) -> None:
        """End the run."""
        with safe_telemetry_operation("end_agent_execution"):
            more = {} if error_message is None else {"error_message": error_message}
            self._collector.end_agent_execution(agent_id=self._id, status=status, task_id=self._task_id, **more)


class TelemetryContext:
    """Block in which an agent works on a task; see ``telemetry_context``."""

    def __init__(  # noqa: PLR0913, PLR0917 - a signature that programs use
        self,
        agent: object,
        agent_name: str,
        task: str,
        sop_category: str | None = None,
        task_id: str | None = None,
        agent_type: AgentType | None = None,
        task_type: str | None = None,
    ) -> None:
        """Prepare the block; nothing is recorded before it is entered."""
        self._agent = agent
        self._agent_name = agent_name
        self._task = task
        self._sop_category = sop_category
        self._task_id = task_id or f"task_{uuid.uuid4().hex[:12]}"
        self._agent_type = agent_type or AgentType.SUPERVISOR
        self._task_type = task_type
        self._collector: TelemetryCollector | None = None
        self._begun = False
        self._blocks = ExitStack()

    def __enter__(self) -> Any:  # noqa: ANN401 - the agent, or one that is like it
        """Begin the task and return the agent, wrapped; the agent itself where telemetry is off or broken."""
        try:
            return self._begin()
        except Exception as error:  # noqa: BLE001 - telemetry never keeps an agent from its work
            get_error_handler().handle_collection_error(error, "telemetry_context")
            self._blocks.close()
            return self._agent

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End the task, FAILED with the error if there was one, which goes on."""
        with safe_telemetry_operation("telemetry_context"):
            if self._collector is not None and self._begun:
                if error is None:
                    self._collector.end_task(self._task_id, TaskStatus.COMPLETED)
                else:
                    failed = TaskStatus.FAILED if isinstance(error, Exception) else TaskStatus.CANCELLED
                    self._collector.end_task(self._task_id, failed, str(error) or type(error).__name__)
        with safe_telemetry_operation("telemetry_context"):
            self._blocks.__exit__(kind, error, traceback)

    def _begin(self) -> object:
        from ai_agents.telemetry.manager import TelemetryManager  # noqa: PLC0415 - tests replace it there

        manager = TelemetryManager.get_instance()
        if not manager.is_enabled():
            return self._agent
        collector = self._collector = manager.get_collector()
        if not is_in_rollout():
            self._blocks.enter_context(agentlightning.OtelTracer().trace_context(shorten(self._task, _TITLE)))
        self._blocks.enter_context(span_attributes({TASK_ID: self._task_id}))
        # A task that is open already is somebody else's to end: an agent inside another's task joins it.
        if self._task_id not in collector.get_active_tasks():
            collector.start_task(self._task_id, self._task, self._sop_category, self._task_type)
            self._begun = True
        return TelemetryInstrumentedAgent(
            self._agent, self._agent_name, self._agent_type, collector, task_id=self._task_id
        )


def telemetry_context(  # noqa: PLR0913, PLR0917 - a signature that programs use
    agent: object,
    agent_name: str,
    task: str,
    sop_category: str | None = None,
    task_id: str | None = None,
    agent_type: AgentType | None = None,
    task_type: str | None = None,
) -> TelemetryContext:
    """Make the block in which *agent* works on *task*; ``with`` gives the agent, wrapped.

    Entering it begins the task, leaving it ends it COMPLETED, or FAILED with the exception, which is passed on. Inside
    the block of the same *task_id* it joins that task. Outside ``agl run`` and ``trace_context`` the block is a
    rollout of its own, so that ``agl show`` has it.
    """
    return TelemetryContext(agent, agent_name, task, sop_category, task_id, agent_type, task_type)


def describe(error: BaseException) -> str:
    """Return class and shortened text of an exception."""
    text = str(error)
    return shorten(f"{type(error).__name__}: {text}" if text else type(error).__name__, 200) or ""


def _hit_limit(result: object) -> bool:
    return type(result).__name__ == "RunResult" and getattr(result, "state", "") == "max_steps_error"
