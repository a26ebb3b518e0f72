"""Agents of other frameworks as ``LitAgent``."""

# pyright: reportUnknownVariableType=false
# (smolagents leaves some of its types open)

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

from agentlightning import LLM, LitAgent, OtelTracer, PromptTemplate, open_store, wrap
from agentlightning.litagent import AgentWrapper, register_wrapper
from agentlightning.testing import AgentRule, ModelServer
from agentlightning.types.core import Rollout

if TYPE_CHECKING:
    from pathlib import Path

ROLLOUT = Rollout(rollout_id="ro-1", input=None, start_time=0.0)
MODEL = LLM(endpoint="http://127.0.0.1:1/v1", model="m")
TEMPLATE = PromptTemplate(template="{q}", engine="f-string")


@tool
def add(a: int, b: int) -> int:
    """Return the sum of two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def shout(task: str) -> str:
    """Say it loud."""
    return task.upper()


async def with_names(rollout: Rollout, question: str, llm: LLM, prompt_template: PromptTemplate) -> object:
    """Take everything by name."""
    return question, llm.model, prompt_template.template, rollout.id


async def test_any_callable_is_an_agent() -> None:
    """A callable gets its task as the first parameter that has no meaning of its own, and the rest by name."""
    plain, named = wrap(shout), wrap(with_names)
    assert isinstance(plain, LitAgent)
    assert plain("hi") == "HI"
    assert plain.rollout("hi", {}, ROLLOUT) == "HI"
    assert (plain.__name__, plain.__doc__) == ("shout", "Say it loud.")
    resources: dict[str, Any] = {"m": MODEL, "p": TEMPLATE}
    assert named.is_async()
    assert await named.rollout_async("why", resources, ROLLOUT) == ("why", "m", "{q}", "ro-1")
    with pytest.raises(ValueError, match="with_names wants a resource for its parameter 'llm'"):
        await named.rollout_async("why", {}, ROLLOUT)
    assert wrap(len).rollout("four", {}, ROLLOUT) == 4
    assert pickle.loads(pickle.dumps(plain)).rollout("hi", {}, ROLLOUT) == "HI"


async def test_a_smolagents_agent_is_traced_and_gets_the_model(tmp_path: Path) -> None:
    """An unchanged smolagents agent runs as a rollout: its spans are one tree, and the rollout's model answers."""
    store = open_store(str(tmp_path / "own.db"))
    with ModelServer(AgentRule()) as server, ModelServer(["unused"]) as unused:
        own_model = OpenAIServerModel("own", api_base=unused.url, api_key="k")
        agent: Any = ToolCallingAgent(tools=[add], model=own_model, max_steps=4, verbosity_level=0)
        wrapped = wrap(agent)
        attempted = await store.start_rollout("x")
        ids = {"rollout_id": attempted.rollout_id, "attempt_id": attempted.attempt.attempt_id}
        async with OtelTracer().trace_context(store=store, **ids):
            task = {"question": "What is add(a=2, b=3)?"}
            result = wrapped.rollout(task, {"m": LLM(endpoint=server.url, model="tuned")}, attempted)
    assert str(result) == "5"
    assert agent.model is own_model
    assert not unused.requests
    spans = await store.query_spans(attempted.rollout_id)
    (root,) = [span for span in spans if span.parent_id is None]
    assert root.name == "ToolCallingAgent.run"
    assert root.attributes["input.value"] == "What is add(a=2, b=3)?"
    assert any(span.name == "add" for span in spans)
    assert any("tuned" in str(span.attributes.get("llm.model_name")) for span in spans)
    store.close()


def test_one_stateful_agent_works_on_one_task_at_a_time() -> None:
    """Tasks on an agent that cannot be shared take turns, also from threads."""

    class Stateful:
        busy = False

        def run(self, task: str) -> str:
            assert not self.busy
            self.busy = True
            entered.release()
            proceed.acquire(timeout=5)
            self.busy = False
            return task

    class StatefulWrapper(AgentWrapper):
        injected = 0

        def matches(self, agent: object) -> bool:
            return isinstance(agent, Stateful)

        def inject(self, agent: object) -> None:
            self.injected += 1

        def run(self, agent: Any, task: object, places: dict[str, Any]) -> Any:
            return agent.run(task)

        def result(self, agent: object, output: object) -> Any:
            return float(len(str(output)))

    wrapper = StatefulWrapper()
    register_wrapper(wrapper)
    entered, proceed = threading.Semaphore(0), threading.Semaphore(0)
    wrapped = wrap(Stateful())
    results: list[Any] = []

    def work(text: str) -> None:
        results.append(wrapped.rollout(text, {}, ROLLOUT))

    threads = [threading.Thread(target=work, args=(text,)) for text in ("a", "bb", "ccc")]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert entered.acquire(timeout=5)
        proceed.release()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1.0, 2.0, 3.0]
    assert wrapper.injected == 1


def test_what_cannot_be_wrapped_says_what_to_do() -> None:
    """Neither a plain object nor an agent of ours is wrapped; the message holds the remedy."""
    with pytest.raises(TypeError, match=r"builtins.int is neither callable .* wrap\(lambda task: agent.run\(task\)\)"):
        wrap(5)
    with pytest.raises(TypeError, match="is a LitAgent already"):
        wrap(wrap(shout))
