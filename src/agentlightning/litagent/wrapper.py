"""Agents of other frameworks: wrap the agent, inject what reports its steps, map its data, switch tracing on.

``wrap`` knows smolagents, LangChain, the OpenAI Agents SDK, AutoGen and any callable. A framework that is added later
registers an ``AgentWrapper``.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, cast

from agentlightning import settings
from agentlightning.litagent.litagent import LitAgent
from agentlightning.litagent.signature import is_coroutine_function, name_of, named_parameters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentlightning.types.core import Rollout, RolloutRawResult
    from agentlightning.types.resources import NamedResources

_PLACES = ("llm", "prompt_template", "resources", "rollout")
"""Parameters of a callable that are filled by their name; its first other parameter gets the task."""


class AgentWrapper(ABC):
    """Knows how to run the agents of one framework. One object serves all of them; its methods run on any thread."""

    @abstractmethod
    def matches(self, agent: object) -> bool:
        """Tell whether *agent* is one of the framework's; must not import the framework."""

    def name(self, agent: object) -> str:
        """Return the name of *agent* for traces."""
        return name_of(agent)

    def is_async(self, agent: object) -> bool:
        """Tell whether ``run`` returns something to be awaited."""
        _ = agent
        return False

    def is_shared(self, agent: object) -> bool:
        """Tell whether several tasks may run on *agent* at once; where not, they take turns."""
        _ = agent
        return False

    def inject(self, agent: object) -> None:  # noqa: B027 - most report by an instrumentor
        """Make *agent* report its steps: callbacks, handlers; once for each agent. Does nothing by default."""

    def task_input(self, agent: object, task: object) -> object:
        """Return *task* as the framework wants it; by default as it is."""
        _ = agent
        return task

    @abstractmethod
    def run(self, agent: object, task: object, places: dict[str, object]) -> object:
        """Run *agent* on what ``task_input`` gave.

        Args:
            agent: The agent.
            task: Its input.
            places: ``resources`` and ``rollout``; in a direct call the arguments by name.
        """

    def result(self, agent: object, output: object) -> RolloutRawResult:
        """Return what the rollout gets of the agent's *output*; by default the output itself."""
        _ = agent
        return cast("RolloutRawResult", output)


class _CallableWrapper(AgentWrapper):
    """Any function or callable object: what it can be given by name it gets, the first other parameter is the task."""

    def matches(self, agent: object) -> bool:
        """Take whatever can be called."""
        return callable(agent)

    def is_async(self, agent: object) -> bool:
        """Tell whether calling it gives a coroutine."""
        return is_coroutine_function(agent)

    def is_shared(self, agent: object) -> bool:
        """Return True: what calls of a function share is its own business."""
        _ = agent
        return True

    def run(self, agent: object, task: object, places: dict[str, object]) -> object:
        """Call the function with what it names; TypeError and ValueError say which parameter is wrong."""
        function = cast("Callable[..., object]", agent)
        parameters = _parameters_of(function)
        names = [parameter.name for parameter in parameters]
        given = {name: places[name] for name in names if name in places}
        for name, kind in (("llm", "LLM"), ("prompt_template", "PromptTemplate")):
            if name in names and name not in given:
                given[name] = _resource(places, kind, name, name_of(agent))
        own = next((parameter for parameter in parameters if parameter.name not in _PLACES), None)
        if own is None:
            return function(**given) if names else function(task)
        return function(task, **given) if own.kind is own.POSITIONAL_ONLY else function(**{own.name: task}, **given)


class WrappedLitAgent(LitAgent[Any]):
    """An agent of another framework as a ``LitAgent``; made by ``wrap``.

    Calling it runs the agent on a task, traced like a function under ``@rollout``.
    """

    def __init__(self, agent: object, wrapper: AgentWrapper) -> None:
        """Wrap *agent*; its framework's callbacks are injected now, and its calls are traced from now on."""
        super().__init__()
        self.agent = agent
        """The agent as it was given."""
        self._wrapper = wrapper
        self._turn = None if wrapper.is_shared(agent) else threading.Lock()
        self.__name__ = wrapper.name(agent)
        self.__doc__ = inspect.getdoc(agent)
        wrapper.inject(agent)
        self._activate()

    def __repr__(self) -> str:
        """Return name and framework of the agent."""
        return f"<agent {self.__name__} of {type(self.agent).__module__.partition('.')[0]}>"

    def __getstate__(self) -> dict[str, object]:
        """Leave the lock behind; every process has its own."""
        return {**super().__getstate__(), "_turn": self._turn is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the lock anew, and switch tracing on in this process."""
        self.__dict__.update(state, _turn=threading.Lock() if state["_turn"] else None)
        self._activate()

    def __call__(self, task: Any, **places: Any) -> Any:  # noqa: ANN401 - the framework's own
        """Run the agent on *task* and return its output; *places* are ``llm``, ``resources`` and so on."""
        if not settings.get(settings.ENABLED):
            return self._await_turn(task, places) if self.is_async() else self._run(task, places)
        from agentlightning.litagent import direct  # noqa: PLC0415 - loads OpenTelemetry, which nobody needs who never calls

        if self.is_async():
            return direct.call_async(self.__name__, self._await_turn, ((task, places), {}))
        return direct.call(self.__name__, self._run, ((task, places), {}))

    def is_async(self) -> bool:
        """Tell whether the agent has to be awaited."""
        return self._wrapper.is_async(self.agent)

    def rollout(self, task: Any, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:  # noqa: ANN401
        """Run the agent on *task*; see ``LitAgent``."""
        output = self._run(task, {"resources": resources, "rollout": rollout})
        return self._wrapper.result(self.agent, output)

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:  # noqa: ANN401
        """Run the agent on *task* and await it; see ``LitAgent``."""
        output = await self._await_turn(task, {"resources": resources, "rollout": rollout})
        return self._wrapper.result(self.agent, output)

    def _run(self, task: object, places: dict[str, object]) -> object:
        if self._turn is None:
            return self._wrapper.run(self.agent, self._wrapper.task_input(self.agent, task), places)
        with self._turn:
            return self._wrapper.run(self.agent, self._wrapper.task_input(self.agent, task), places)

    async def _await_turn(self, task: object, places: dict[str, object]) -> object:
        if self._turn is None:
            output = self._wrapper.run(self.agent, self._wrapper.task_input(self.agent, task), places)
            return await cast("Awaitable[object]", output)
        # Not asyncio's Lock or Event: turns are taken across event loops.
        while not self._turn.acquire(blocking=False):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)
        try:
            output = self._wrapper.run(self.agent, self._wrapper.task_input(self.agent, task), places)
            return await cast("Awaitable[object]", output)
        finally:
            self._turn.release()

    @staticmethod
    def _activate() -> None:
        if settings.get(settings.ENABLED):
            from agentlightning.tracer.otel import OtelTracer  # noqa: PLC0415 - not where capture is off

            OtelTracer().init()


_CALLABLE = _CallableWrapper()

_registered: list[AgentWrapper] = []


def register_wrapper(wrapper: AgentWrapper) -> None:
    """Let ``wrap`` use *wrapper* for the agents that it matches; the one registered last is asked first."""
    _registered.insert(0, wrapper)


def wrap(agent: object) -> WrappedLitAgent:
    """Make an agent of another framework, or any callable, one that can be traced, run at scale and trained.

    A callable gets ``llm``, ``prompt_template``, ``resources`` and ``rollout`` by the names of its parameters, and the
    task as its first other argument. smolagents' agents are run with ``agent.run(task)``, LangChain's and graphs with
    ``invoke``, those of the OpenAI Agents SDK with ``Runner.run``, AutoGen's agents and teams with ``run``. One agent
    object of smolagents or AutoGen works on one task at a time, so for many at once start several processes, or wrap a
    function that makes an agent for each task.

    Raises:
        TypeError: Nothing is known about *agent*; the message says what can be done.
    """
    from agentlightning.litagent.frameworks import known_wrappers  # noqa: PLC0415 - only where an agent is wrapped

    if isinstance(agent, LitAgent):
        msg = f"{agent!r} is a LitAgent already; use it as it is"
        raise TypeError(msg)
    for wrapper in (*_registered, *known_wrappers(), _CALLABLE):
        if wrapper.matches(agent):
            return WrappedLitAgent(agent, wrapper)
    msg = (
        f"{type(agent).__module__}.{type(agent).__qualname__} is neither callable nor of a framework that is known; "
        "wrap a function that runs it: wrap(lambda task: agent.run(task)), or call register_wrapper()"
    )
    raise TypeError(msg)


def _parameters_of(function: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        return named_parameters(function)
    except TypeError:
        return []  # a builtin that does not say: it gets the task


def _resource(places: dict[str, object], kind: str, parameter: str, agent: str) -> object:
    from agentlightning.litagent.decorator import first_resource  # noqa: PLC0415 - only where one is wanted
    from agentlightning.types import resources  # noqa: PLC0415 - loads pydantic

    return first_resource(
        cast("NamedResources", places.get("resources") or {}), getattr(resources, kind), parameter, agent
    )
