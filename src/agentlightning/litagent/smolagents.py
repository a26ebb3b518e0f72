"""smolagents' agents as ``LitAgent``; the spans are written by the instrumentor."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Protocol, cast

from agentlightning.litagent.wrapper import AgentWrapper
from agentlightning.view.loose import as_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.types.resources import LLM

_MAIN_TEXT = ("task", "question", "prompt", "input", "query", "instruction")
"""Keys under which a task that is a dict may have its text, the first that is there."""


class SmolagentsWrapper(AgentWrapper):
    """Runs ``MultiStepAgent`` and its subclasses."""

    def matches(self, agent: object) -> bool:
        """Tell whether *agent* is one, without importing smolagents: who has none of it loaded has no agent of it."""
        base: object = getattr(sys.modules.get("smolagents"), "MultiStepAgent", None)
        return isinstance(base, type) and isinstance(agent, base)

    def name(self, agent: object) -> str:
        """Return the agent's own name, else its class's."""
        return str(getattr(agent, "name", None) or type(agent).__name__)

    def task_input(self, agent: object, task: object) -> object:
        """Return the text of *task*: itself, the main text of a dict, else JSON."""
        _ = agent
        return task_text(task)

    def run(self, agent: object, task: object, places: dict[str, object]) -> object:
        """Run *agent*; where the rollout has an ``LLM``, it takes the place of the agent's model for this run."""
        llm = llm_of(places)
        if llm is None:
            return cast("_Agent", agent).run(task)
        agents = list(_family(cast("_Agent", agent)))
        models = [member.model for member in agents]
        replacement = _model(llm)
        try:
            for member in agents:
                member.model = replacement
            return agents[0].run(task)
        finally:
            for member, model in zip(agents, models, strict=True):
                member.model = model


def task_text(task: object) -> str:
    """Return the text of *task*: itself, the main text of a dict, else JSON."""
    if isinstance(task, str):
        return task
    if isinstance(task, dict):
        fields = cast("dict[str, object]", task)
        for key in _MAIN_TEXT:
            found = fields.get(key)
            if isinstance(found, str):
                return found
    return json.dumps(task, ensure_ascii=False, default=str)


def llm_of(places: dict[str, object]) -> LLM | None:
    """Return the ``LLM`` that a run is given, by its argument or among its resources, or None."""
    from agentlightning.types.core import AttemptedRollout  # noqa: PLC0415 - loads pydantic
    from agentlightning.types.resources import LLM, ProxyLLM  # noqa: PLC0415

    resources = as_dict(places.get("resources"))
    given = [places.get("llm"), *resources.values()]
    found = next((value for value in given if isinstance(value, LLM)), None)
    rollout = places.get("rollout")
    if isinstance(found, ProxyLLM) and isinstance(rollout, AttemptedRollout):
        return found.with_attempted_rollout(rollout)
    return found


class _Agent(Protocol):
    """What is used of an agent of smolagents."""

    model: object

    def run(self, task: object, /) -> object:
        """Run the agent on a task."""
        ...


def _family(agent: _Agent) -> Iterator[_Agent]:
    yield agent
    for member in as_dict(getattr(agent, "managed_agents", None)).values():
        if hasattr(member, "model"):
            yield from _family(cast("_Agent", member))


def _model(llm: LLM) -> object:
    from smolagents import OpenAIServerModel  # noqa: PLC0415 - optional

    return OpenAIServerModel(
        llm.model, api_base=llm.get_base_url(), api_key=llm.api_key or "none", **llm.sampling_parameters
    )
