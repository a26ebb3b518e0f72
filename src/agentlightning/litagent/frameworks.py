"""Agents of LangChain, the OpenAI Agents SDK and AutoGen as ``LitAgent``; the spans are written by instrumentors.

An agent of LangChain or AutoGen has its model inside and keeps it: to train one, wrap a function that makes it of
``llm``.
Nothing here imports a framework: who has none of it loaded has no agent of it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import TYPE_CHECKING, Any, cast

from agentlightning.litagent.smolagents import SmolagentsWrapper, llm_of, task_text
from agentlightning.litagent.wrapper import AgentWrapper

if TYPE_CHECKING:
    from agentlightning.types.core import RolloutRawResult


def _is_a(agent: object, module: str, name: str) -> bool:
    base: object = getattr(sys.modules.get(module), name, None)
    return isinstance(base, type) and isinstance(agent, base)


class _TextWrapper(AgentWrapper):
    """Common to agents that are asked in words, and may be asked many things at once."""

    def name(self, agent: object) -> str:
        """Return the agent's own name, else its class's."""
        return str(getattr(agent, "name", None) or type(agent).__name__)

    def is_shared(self, agent: object) -> bool:
        """Tell that several tasks may run at once: the agent keeps nothing of a task."""
        _ = agent
        return True

    def task_input(self, agent: object, task: object) -> object:
        """Return the text of *task*."""
        _ = agent
        return task_text(task)


class LangChainWrapper(_TextWrapper):
    """Runs what ``create_agent`` or LangGraph compile, and every other ``Runnable``, by ``invoke``."""

    def matches(self, agent: object) -> bool:
        """Tell whether *agent* is a ``Runnable``."""
        return _is_a(agent, "langchain_core.runnables.base", "Runnable")

    def task_input(self, agent: object, task: object) -> object:
        """Return the state of a graph of messages for *task*, unless that is one already; else the task as it is."""
        is_graph = _is_a(agent, "langgraph.pregel", "Pregel")
        fields = cast("dict[str, object]", task) if isinstance(task, dict) else {}
        if not is_graph or "messages" in fields:
            return cast("object", task)
        return {"messages": [{"role": "user", "content": task_text(cast("object", task))}]}

    def run(self, agent: object, task: object, places: dict[str, object]) -> object:
        """Run *agent* on *task*; its models are its own."""
        _ = places
        return cast("Any", agent).invoke(task)

    def result(self, agent: object, output: object) -> RolloutRawResult:
        """Return the text of the last message of a graph, else the output itself."""
        _ = agent
        fields = cast("dict[str, Any]", output) if isinstance(output, dict) else {}
        messages = cast("list[object]", fields.get("messages") or [])
        return cast("RolloutRawResult", getattr(messages[-1], "content", None) if messages else output)


class OpenAIAgentsWrapper(_TextWrapper):
    """Runs an ``Agent`` of the OpenAI Agents SDK by ``Runner.run``."""

    def matches(self, agent: object) -> bool:
        """Tell whether *agent* is one."""
        return _is_a(agent, "agents", "Agent") and hasattr(sys.modules["agents"], "Runner")

    def is_async(self, agent: object) -> bool:
        """Tell that runs are awaited."""
        _ = agent
        return True

    def run(self, agent: object, task: object, places: dict[str, object]) -> object:
        """Return the run of *agent* on *task*, to be awaited; a rollout's ``LLM`` is the model of all its agents."""
        agents: Any = importlib.import_module("agents")
        llm = llm_of(places)
        if llm is None:
            return agents.Runner.run(agent, task)
        # Chat completions: servers of open models have nothing else.
        provider = agents.OpenAIProvider(
            api_key=llm.api_key or "none", base_url=llm.get_base_url(), use_responses=False
        )
        known = inspect.signature(agents.ModelSettings).parameters
        chosen = {name: value for name, value in llm.sampling_parameters.items() if name in known}
        settings = agents.ModelSettings(**chosen)
        config = agents.RunConfig(model=llm.model, model_provider=provider, model_settings=settings)
        return agents.Runner.run(agent, task, run_config=config)

    def result(self, agent: object, output: object) -> RolloutRawResult:
        """Return the final output."""
        _ = agent
        return cast("RolloutRawResult", cast("Any", output).final_output)


class AutoGenWrapper(_TextWrapper):
    """Runs an agent or a team of AutoGen's agentchat by ``run``; it remembers, so it is reset before each task."""

    def matches(self, agent: object) -> bool:
        """Tell whether *agent* is an agent or a team."""
        return _is_a(agent, "autogen_agentchat.base", "ChatAgent") or _is_a(agent, "autogen_agentchat.base", "Team")

    def is_async(self, agent: object) -> bool:
        """Tell that runs are awaited."""
        _ = agent
        return True

    def is_shared(self, agent: object) -> bool:
        """Tell that tasks take turns: an agent has one conversation."""
        _ = agent
        return False

    async def run(self, agent: object, task: object, places: dict[str, object]) -> object:
        """Run *agent* on *task*, with nothing left of the task before."""
        _ = places
        it = cast("Any", agent)
        if _is_a(agent, "autogen_agentchat.base", "ChatAgent"):
            core: Any = importlib.import_module("autogen_core")
            await it.on_reset(core.CancellationToken())
        else:
            await it.reset()
        return await it.run(task=task)

    def result(self, agent: object, output: object) -> RolloutRawResult:
        """Return the text of the last message."""
        _ = agent
        messages = cast("Any", output).messages
        return cast("RolloutRawResult", getattr(messages[-1], "content", None) if messages else None)


def known_wrappers() -> tuple[AgentWrapper, ...]:
    """Return a wrapper for each framework that is known."""
    return SmolagentsWrapper(), LangChainWrapper(), OpenAIAgentsWrapper(), AutoGenWrapper()
