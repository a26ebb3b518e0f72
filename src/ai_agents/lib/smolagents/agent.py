"""Making agents: one place that knows the two kinds of smolagents, from release 1.15 to the newest."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, Protocol

from agentlightning.errors import MissingExtraError
from ai_agents.lib.tracing import sub_task_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType


def load_smolagents() -> ModuleType:
    """Return the library.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module("smolagents")
    except ImportError:
        extra = "smolagents"
        raise MissingExtraError(extra, "the agent framework") from None


class Agent(Protocol):
    """What is used of an agent, of any class of smolagents or of a program's own."""

    def run(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - whatever its final answer is
        """Work on a task and return the answer, or with ``stream=True`` the steps one by one."""
        ...

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Work on a task for a manager."""
        ...

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the agent's class has
        """Return anything else of the agent."""
        ...


class SubTaskTrackedAgent:
    """An agent whose runs are sub-tasks of the running task; it is like the agent itself in everything else."""

    _agent: Agent
    _tracked_name: str

    def __init__(self, agent: Agent, agent_name: str) -> None:
        """Wrap *agent*."""
        object.__setattr__(self, "_agent", agent)
        object.__setattr__(self, "_tracked_name", agent_name)

    def run(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - the agent's own answer
        """Run the agent in a sub-task."""
        with sub_task_context(self._tracked_name):
            return self._agent.run(*args, **kwargs)

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call the agent, as a manager does, in a sub-task."""
        with sub_task_context(self._tracked_name):
            return self._agent(*args, **kwargs)

    @property
    def __class__(self) -> type[object]:  # pyright: ignore[reportIncompatibleMethodOverride] - isinstance() looks here
        """Class of the agent."""
        agent: object = self._agent
        return type(agent)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the agent's own
        """Return an attribute of the agent."""
        if name in ("_agent", "_tracked_name"):  # not set yet, as in a copy under way
            raise AttributeError(name)
        return getattr(self._agent, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute of the agent."""
        setattr(self._agent, name, value)


def new_agent(  # noqa: PLR0913 - each is a decision about one agent
    tools: Sequence[object],
    *,
    model: object,
    use_tool_call: bool = False,
    stream_outputs: bool = False,
    additional_authorized_imports: Sequence[str] | None = None,
    enable_sub_task_tracking: bool = False,
    agent_name: str | None = None,
    description: str | None = None,
    **options: object,
) -> Agent:
    """Return an agent: a ``ToolCallingAgent`` with *use_tool_call*, else a ``CodeAgent``.

    Args:
        tools: Tools, or plain functions with a docstring that tells their arguments; of one name the first counts.
        model: What the agent thinks with.
        use_tool_call: Call tools one by one instead of writing code.
        stream_outputs: Show what the model says while it says it, where the release can.
        additional_authorized_imports: What generated code may import.
        enable_sub_task_tracking: Make each run a sub-task of the running task.
        agent_name: Name of the agent, a Python identifier.
        description: What a manager is told about it.
        options: Anything else that the class takes; what this release does not know is an error of its own.

    Raises:
        ValueError: Tracking was asked for without a name.
    """
    library = load_smolagents()
    if enable_sub_task_tracking and not agent_name:
        msg = "an agent whose sub-tasks are tracked needs a name; give agent_name"
        raise ValueError(msg)
    kind: Callable[..., Agent] = library.ToolCallingAgent if use_tool_call else library.CodeAgent
    if not use_tool_call and additional_authorized_imports:
        options["additional_authorized_imports"] = list(additional_authorized_imports)
    if stream_outputs and "stream_outputs" in inspect.signature(kind).parameters:
        options["stream_outputs"] = hasattr(model, "generate_stream")
    agent = kind(tools=_unique(library, tools), model=model, name=agent_name, description=description, **options)
    return SubTaskTrackedAgent(agent, agent_name) if enable_sub_task_tracking and agent_name else agent


def _unique(library: ModuleType, tools: Sequence[object]) -> list[object]:
    """Return *tools* with functions made into tools, each name once."""
    found: dict[object, object] = {}
    for each in tools:
        tool: object = library.tool(each) if inspect.isfunction(each) else each
        found.setdefault(getattr(tool, "name", tool), tool)
    return list(found.values())
