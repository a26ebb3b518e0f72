"""Each way in which smolagents runs: the result is that of smolagents alone, and the records are right."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

import agentlightning
from ai_agents.telemetry import AgentExecution, AgentType, LLMCall, TaskStatus, TelemetryManager

if TYPE_CHECKING:
    from collections.abc import Callable

FINAL = ("final_answer", {"answer": "done"})
Outcome = tuple[str, Any]


@dataclass
class Case:
    """How an agent is run, and what is to be recorded of it, the outermost run last."""

    run: Callable[[Any], Any]
    agents: list[tuple[str, int, list[str], str]]
    """Kind, number of model calls, tools and status of each run."""


def outcome(run: Callable[[Any], Any], kit: Any) -> Outcome:
    """Return what a run gives: its result, or class and text of its error."""
    try:
        result = run(kit)
    except BaseException as error:
        return type(error).__name__, str(error)
    plain = isinstance(result, (str, int, float, list))
    return "result", str(result) if plain else type(result).__name__  # pyright: ignore[reportUnknownArgumentType]


def drain(items: Any) -> list[str]:
    """Read a stream to its end and return the classes of what came."""
    return [type(item).__name__ for item in items]


def closed_early(kit: Any) -> Any:
    """Take one step of a stream and leave it."""
    stream = kit.caller(kit.calls(("add", {"a": 1, "b": 2})), kit.calls(FINAL)).run("x", stream=True)
    next(stream)
    # Closing raises in some releases of smolagents, with or without us.
    with contextlib.suppress(RuntimeError):
        stream.close()
    return "left"


def interleaved(kit: Any) -> Any:
    """Read two streams in turns."""
    streams = [
        kit.caller(kit.calls((name, {"a": 1, "b": 2})), kit.calls(FINAL)).run("x", stream=True)
        for name in ("add", "add")
    ]
    seen: list[str] = []
    while streams:
        for stream in list(streams):
            try:
                seen.append(type(next(stream)).__name__)
            except StopIteration:
                streams.remove(stream)
    return sorted(seen)


def elsewhere(kit: Any) -> Any:
    """Begin a stream here and read it in another thread."""
    stream = kit.caller(kit.calls(FINAL)).run("x", stream=True)
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(drain(stream)))
    thread.start()
    thread.join()
    return seen


def managed(kit: Any) -> Any:
    """Let a manager call another agent as a tool."""
    inner = kit.caller(kit.calls(FINAL), name="helper", description="Helps.")
    return kit.caller(kit.calls(("helper", {"task": "y"})), kit.calls(FINAL), managed_agents=[inner]).run("x")


def managed_in_code(kit: Any) -> Any:
    """Let generated code, in its own thread, call another agent."""
    inner = kit.caller(kit.calls(("add", {"a": 1, "b": 2})), kit.calls(FINAL), name="helper", description="Helps.")
    return kit.coder(kit.code("helper(task='y')"), kit.code("final_answer(5)"), managed_agents=[inner]).run("x")


def failing_managed(kit: Any) -> Any:
    """Let a managed agent fail."""
    inner = kit.caller(RuntimeError("down"), name="helper", description="Helps.")
    return kit.caller(kit.calls(("helper", {"task": "y"})), kit.calls(FINAL), managed_agents=[inner]).run("x")


def callback_raises(kit: Any) -> Any:
    """Have a step callback raise."""

    def broken(step: Any, **_: Any) -> None:
        raise KeyError("callback")

    return kit.caller(kit.calls(FINAL), step_callbacks=[broken]).run("x")


def timeout(kit: Any) -> Any:
    """Let generated code run out of its time; its thread runs on for a while."""
    limit = {"executor_kwargs": {"timeout_seconds": 1}} if kit.HAS_TIMEOUT else {}
    return kit.coder(kit.code("slow(1.2)"), kit.code("final_answer(7)"), tools=(kit.slow,), **limit).run("x")


def unread(kit: Any) -> Any:
    """Make a stream that nobody reads."""
    kit.caller(kit.calls(FINAL)).run("x", stream=True)
    return "unread"


CASES = {
    "plain": Case(
        lambda kit: kit.caller(kit.calls(("add", {"a": 1, "b": 2})), kit.calls(FINAL)).run("x"),
        [("tool_calling", 2, ["add", "final_answer"], "completed")],
    ),
    "code": Case(
        lambda kit: kit.coder(kit.code("final_answer(add(1, 2))")).run("x"),
        [("code", 1, ["add", "final_answer"], "completed")],
    ),
    "super": Case(
        lambda kit: kit.coder(model=kit.Calling(kit.code("final_answer(1)"))).run("x"),
        [("code", 1, ["final_answer"], "completed")],
    ),
    "stream": Case(
        lambda kit: drain(kit.caller(kit.calls(("add", {"a": 1, "b": 2})), kit.calls(FINAL)).run("x", stream=True)),
        [("tool_calling", 2, ["add", "final_answer"], "completed")],
    ),
    "managed": Case(
        managed,
        [("managed", 1, ["final_answer"], "completed"), ("tool_calling", 2, ["final_answer"], "completed")],
    ),
    "managed in code": Case(
        managed_in_code,
        [("managed", 2, ["add", "final_answer"], "completed"), ("code", 2, ["final_answer"], "completed")],
    ),
    "parallel": Case(
        lambda kit: kit.caller(
            kit.calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}), ("add", {"a": 5, "b": 6})), kit.calls(FINAL)
        ).run("x"),
        [("tool_calling", 2, ["add", "add", "add", "final_answer"], "completed")],
    ),
    "failing tool": Case(
        lambda kit: kit.caller(kit.calls(("fail", {"reason": "no"})), kit.calls(FINAL)).run("x"),
        [("tool_calling", 2, ["fail", "final_answer"], "completed")],
    ),
    "failing model": Case(lambda kit: kit.caller(RuntimeError("down")).run("x"), [("tool_calling", 1, [], "failed")]),
    "failing managed": Case(
        failing_managed, [("managed", 1, [], "failed"), ("tool_calling", 2, ["final_answer"], "completed")]
    ),
    "interrupted": Case(lambda kit: kit.caller(KeyboardInterrupt()).run("x"), [("tool_calling", 1, [], "cancelled")]),
    "too many steps": Case(
        lambda kit: kit.caller(kit.calls(("add", {"a": 1, "b": 2})), "give up", max_steps=1).run("x"),
        [("tool_calling", 2, ["add"], "partial")],
    ),
    "closed early": Case(closed_early, [("tool_calling", 1, [], "cancelled")]),
    "never read": Case(unread, []),
    "interleaved": Case(
        interleaved,
        [("tool_calling", 2, ["add", "final_answer"], "completed")] * 2,
    ),
    "other thread": Case(elsewhere, [("tool_calling", 1, ["final_answer"], "completed")]),
    "callback raises": Case(callback_raises, [("tool_calling", 1, ["final_answer"], "failed")]),
    "out of time": Case(timeout, [("code", 2, ["slow", "final_answer"], "completed")]),
    "streamed output": Case(
        lambda kit: kit.coder(model=kit.Streaming(kit.code("final_answer(1)")), stream_outputs=True).run("x"),
        [("code", 1, ["final_answer"], "completed")],
    ),
    "own __call__": Case(
        lambda kit: kit.caller(kit.calls(("shout", {"text": "hi"})), kit.calls(FINAL), tools=(kit.Shouting(),)).run(
            "x"
        ),
        [("tool_calling", 2, ["shout", "final_answer"], "completed")],
    ),
    "no usage": Case(
        lambda kit: kit.coder(model=kit.Scripted(kit.code("final_answer(1)"), usage=False)).run("x"),
        [("code", 1, ["final_answer"], "completed")],
    ),
}


def recorded() -> list[AgentExecution]:
    """Return the runs of agents that the session has."""
    assert agentlightning.flush(10)
    session = TelemetryManager.get_instance().get_collector().get_session_data(include_active=True)
    return [agent for task in session.tasks for agent in task.agents]


def described(agent: AgentExecution) -> tuple[str, int, list[str], str]:
    """Return a run as a case describes it."""
    tools = sorted((tool.tool_name for tool in agent.tools_used), key=lambda name: (name == "final_answer", name))
    return agent.agent_type.value, len(agent.llm_calls), tools, agent.status.value


@pytest.mark.parametrize("name", CASES)
def test_result_is_the_same_and_the_records_are_right(name: str, kit: Any) -> None:
    """With telemetry a run gives what it gives without, each call is recorded once, no context is left."""
    case = CASES[name]
    bare = outcome(case.run, kit)
    TelemetryManager.get_instance().initialize()
    assert outcome(case.run, kit) == bare
    assert trace.get_current_span() is trace.INVALID_SPAN
    found = recorded()
    if name == "parallel" and not kit.CALLS_IN_PARALLEL:
        assert [described(agent) for agent in found] == [("tool_calling", 2, ["add", "final_answer"], "completed")]
    elif name == "closed early":  # how far it came depends on the release
        assert [(agent.agent_type, agent.status) for agent in found] == [(AgentType.TOOL_CALLING, TaskStatus.CANCELLED)]
    else:
        assert [described(agent) for agent in found] == case.agents
    assert all(agent.duration is not None for agent in found)
    # Afterwards everything is as if nothing had been.
    agentlightning.uninstrument_all()
    assert outcome(case.run, kit) == bare


def test_tokens_and_costs(kit: Any) -> None:
    """Tokens are those of the messages, by model and with their cost; missing usage is said and not invented (O10)."""
    manager = TelemetryManager.get_instance()
    manager.initialize()
    kit.caller(kit.calls(("add", {"a": 1, "b": 2})), kit.calls(FINAL)).run("x")
    kit.coder(model=kit.Scripted(kit.code("final_answer(1)"), usage=False)).run("x")
    session = manager.get_session_data()
    assert session is not None
    assert (session.total_tokens.prompt_tokens, session.total_tokens.completion_tokens) == (200, 40)
    assert list(session.total_tokens.model_breakdown) == ["gpt-4o-mini"]
    assert session.total_tokens.cost_estimate == pytest.approx(200 * 0.15e-6 + 40 * 0.6e-6)
    last: LLMCall = recorded()[-1].llm_calls[0]
    assert (last.total_tokens, last.usage_missing, last.cost_estimate) == (0, True, None)


def test_streamed_model_counts_once(kit: Any) -> None:
    """The deltas of ``generate_stream`` are one call with the sum of their tokens."""
    TelemetryManager.get_instance().initialize()
    kit.coder(model=kit.Streaming(kit.code("final_answer(1)")), stream_outputs=True).run("x")
    (agent,) = recorded()
    assert [call.total_tokens for call in agent.llm_calls] == [120 if kit.HAS_USAGE else 0]


def test_planning_is_noted(kit: Any) -> None:
    """Planning steps are counted, and their calls are the agent's (O10)."""
    TelemetryManager.get_instance().initialize()
    kit.coder("a plan", kit.code("final_answer(1)"), planning_interval=1).run("x")
    (agent,) = recorded()
    assert (agent.planning_steps, len(agent.llm_calls)) == (1, 2)


def test_class_defined_later_is_recorded(kit: Any) -> None:
    """A model class that is defined after everything began is recorded too."""
    TelemetryManager.get_instance().initialize()

    class Late(kit.Scripted):
        def generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            parent: Any = super()
            return parent.generate(messages, *args, **kwargs)

    kit.coder(model=Late(kit.code("final_answer(1)"))).run("x")
    (agent,) = recorded()
    assert len(agent.llm_calls) == 1


def test_call_of_another_library_counts_once(kit: Any) -> None:
    """A call that the model of smolagents makes by the OpenAI client, which writes spans itself, is one call (B4)."""
    from smolagents import OpenAIServerModel

    from agentlightning.testing import AgentRule, ModelServer

    TelemetryManager.get_instance().initialize()
    with ModelServer(AgentRule()) as server:
        model = OpenAIServerModel("gpt-4o-mini", api_base=server.url, api_key="x")
        kit.caller(model=model).run("x")
        import openai

        openai.OpenAI(base_url=server.url, api_key="x").chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}]
        )
    (agent,) = recorded()
    assert len(agent.llm_calls) == 1
    session = TelemetryManager.get_instance().get_collector().get_session_data(include_active=True)
    assert [call.model for task in session.tasks for call in task.llm_calls] == ["gpt-4o"]


def test_beginning_twice_counts_once(kit: Any) -> None:
    """However often and by whom the instrumentation is begun, a call counts once, and one undoing is enough."""
    original = kit.Scripted.generate
    for _ in range(2):
        TelemetryManager.get_instance().initialize()
        agentlightning.OtelTracer().init()
        agentlightning.instrument_all()
    kit.coder(kit.code("final_answer(1)")).run("x")
    (agent,) = recorded()
    assert len(agent.llm_calls) == 1
    agentlightning.uninstrument_all()
    assert kit.Scripted.generate is original


def test_threads_keep_their_tasks(kit: Any) -> None:
    """Agents that run at once, each in the block of its own task, have their calls in their own tasks."""
    from ai_agents.telemetry import telemetry_context

    def work(number: int) -> None:
        agent = kit.coder(kit.code("final_answer(add(1, 2))"))
        with telemetry_context(agent, f"agent{number}", "x", task_id=f"t{number}") as wrapped:
            wrapped.run("x")

    manager = TelemetryManager.get_instance()
    manager.initialize()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session = manager.get_session_data()
    assert session is not None
    found = {
        task.task_id: [(one.agent_name, len(one.llm_calls), len(one.tools_used)) for one in task.agents]
        for task in session.tasks
    }
    assert found == {f"t{number}": [(f"agent{number}", 1, 2)] for number in range(4)}


def test_nothing_is_recorded_when_off(kit: Any) -> None:
    """Switched off, smolagents is as it was before, and no file is written (B19)."""
    manager = TelemetryManager.get_instance()
    original = kit.Scripted.generate
    manager.initialize()
    assert kit.Scripted.generate is not original
    manager.disable_telemetry()
    assert kit.Scripted.generate is original
    assert manager.get_collector() is manager.get_collector()
    kit.coder(kit.code("final_answer(1)")).run("x")
    manager.flush_data()
    assert manager.get_storage_stats()["total_files"] == 0
    assert not manager.is_enabled()
