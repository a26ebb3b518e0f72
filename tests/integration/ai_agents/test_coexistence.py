"""Other instrumentors beside ours, and two collectors at once: each call once, and everything can be put back."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

import agentlightning
from agentlightning.testing import AgentRule, ModelServer
from agentlightning.tracer.provider import get_provider
from ai_agents.telemetry import (
    TelemetryCollector,
    TelemetryManager,
    get_error_handler,
    telemetry_context,
)
from ai_agents.telemetry.instrumentation import AgentInstrumentor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentlightning.types.record import SpanRecord

FINAL = ("final_answer", {"answer": "done"})
ADD = ("add", {"a": 1, "b": 2})


@pytest.fixture
def theirs() -> Iterator[Any]:
    """OpenInference's instrumentor, not begun yet."""
    instrumentor: Any = pytest.importorskip("openinference.instrumentation.smolagents").SmolagentsInstrumentor()
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


@pytest.fixture
def kinds() -> Iterator[Callable[[], Counter[str]]]:
    """Count the spans so far by their kind."""
    found: list[str] = []

    def note(span: SpanRecord, /) -> None:
        if span.end_ns is not None:
            found.append(str(span.attributes.get("openinference.span.kind")))

    def read() -> Counter[str]:
        assert agentlightning.flush(10)
        return Counter(found)

    agentlightning.add_span_listener(note)
    yield read
    agentlightning.remove_span_listener(note)


def begin(order: str, theirs: Any) -> None:
    """Begin both, in one order or the other."""
    steps: list[Callable[[], Any]] = [
        TelemetryManager.get_instance().initialize,
        lambda: theirs.instrument(tracer_provider=get_provider()),
    ]
    for step in steps if order == "ours first" else reversed(steps):
        step()


def attributes_of_library() -> dict[tuple[type, str], object]:
    """Return every method of the library that an instrumentor may replace."""
    from smolagents import agents, models, tools

    found: dict[tuple[type, str], object] = {}
    waiting: list[type] = [models.Model, agents.MultiStepAgent, tools.Tool]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        for name in ("generate", "run", "__call__", "_step_stream", "__init_subclass__"):
            found[cls, name] = vars(cls).get(name)
    return found


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_one_span_each_beside_openinference(order: str, theirs: Any, kinds: Any, kit: Any) -> None:
    """With OpenInference's instrumentor, begun before or after, each run, call and tool has one span (O1, O15)."""
    bare = kit.caller(kit.calls(ADD), kit.calls(FINAL)).run("x")
    begin(order, theirs)
    # The scripted model is none of the library's own classes: OpenInference passes it over.
    assert kit.caller(kit.calls(ADD), kit.calls(FINAL)).run("x") == bare
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert {kind: kinds()[kind] for kind in ("AGENT", "LLM", "TOOL")} == {"AGENT": 1, "LLM": 2, "TOOL": 2}
    session = TelemetryManager.get_instance().get_collector().get_session_data(include_active=True)
    (agent,) = [agent for task in session.tasks for agent in task.agents]
    assert (agent.agent_type.value, len(agent.llm_calls), len(agent.tools_used)) == ("tool_calling", 2, 2)
    assert session.total_tokens.total_tokens == 240


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_tokens_count_once_beside_openinference(order: str, theirs: Any, kit: Any) -> None:
    """A model of the library, whose client writes spans as well, is one call with its tokens once."""
    from smolagents import OpenAIServerModel

    begin(order, theirs)
    with ModelServer(AgentRule()) as server:
        agent = kit.caller(model=OpenAIServerModel("gpt-4o-mini", api_base=server.url, api_key="x"))
        with telemetry_context(agent, "helper", "x") as wrapped:
            wrapped.run("x")
        agent.model.client.close()
    session = TelemetryManager.get_instance().get_session_data()
    assert session is not None
    (task,) = session.tasks
    (run,) = task.agents
    assert (len(run.llm_calls), task.llm_calls) == (1, [])
    assert session.total_tokens.total_tokens == run.llm_calls[0].total_tokens > 0


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_ending_one_leaves_the_other(order: str, first: str, theirs: Any, kinds: Any, kit: Any) -> None:
    """Whichever ends first, the other goes on or gives way, nothing counts twice, and the agent works (O15)."""
    begin(order, theirs)
    if first == "ours":
        agentlightning.uninstrument_all()
    else:
        theirs.uninstrument()
    before = kinds()
    assert kit.caller(kit.calls(ADD), kit.calls(FINAL)).run("x") == "done"
    seen = kinds() - before
    assert seen["AGENT"] <= 1
    assert seen["LLM"] <= 2
    if (order, first) in {("ours first", "theirs"), ("theirs first", "ours")}:
        assert seen["AGENT"] == 1


def test_ending_in_reverse_order_restores_exactly(theirs: Any) -> None:
    """Begun second and ended first, ours leaves every method as it found it (O15)."""
    theirs.instrument(tracer_provider=get_provider())
    with_theirs = attributes_of_library()
    TelemetryManager.get_instance().initialize()
    assert attributes_of_library() != with_theirs
    agentlightning.uninstrument_all()
    assert attributes_of_library() == with_theirs


def test_ending_around_openinference_restores_the_library(theirs: Any) -> None:
    """Begun first and ended last, ours leaves agents, tools and the root of models as the library has them (O15)."""
    from smolagents import agents, models, tools

    roots: list[tuple[type, str]] = [(agents.MultiStepAgent, "run"), (tools.Tool, "__call__")]
    before = [vars(cls)[name] for cls, name in roots]
    TelemetryManager.get_instance().initialize()
    theirs.instrument(tracer_provider=get_provider())
    theirs.uninstrument()
    agentlightning.uninstrument_all()
    assert [vars(cls)[name] for cls, name in roots] == before
    assert "__init_subclass__" not in vars(models.Model)


def test_two_collectors_share_a_model(kit: Any) -> None:
    """Two collectors both get every call, and when one ends the other goes on; then the method is the library's."""
    model_class: type = kit.Scripted
    original = vars(model_class)["generate"]
    one, other = TelemetryCollector(), TelemetryCollector()
    pair = [AgentInstrumentor(collector, get_error_handler()) for collector in (one, other)]
    for instrumentor in pair:
        instrumentor.instrument_model_calls(kit.Scripted)

    def totals() -> list[int]:
        return [collector.get_session_data().total_tokens.total_tokens for collector in (one, other)]

    kit.Scripted("hello").generate([])
    assert totals() == [120, 120]
    pair[0].uninstrument_all()
    assert vars(model_class)["generate"] is not original
    kit.Scripted("hello").generate([])
    assert totals() == [120, 240]
    pair[1].uninstrument_all()
    pair[1].uninstrument_all()
    assert vars(model_class)["generate"] is original
    kit.Scripted("hello").generate([])
    assert totals() == [120, 240]


@pytest.fixture
def messages() -> Iterator[Callable[[], dict[str, tuple[bool, bool]]]]:
    """Tell of each span of a model call whether it holds the messages that went to the model, and its answer."""
    found: dict[str, tuple[bool, bool]] = {}

    def note(span: SpanRecord, /) -> None:
        if span.end_ns is not None and span.attributes.get("openinference.span.kind") == "LLM":
            asked, told = (f"llm.{side}_messages.0.message.role" in span.attributes for side in ("input", "output"))
            found["model" if "generate" in span.name else "client"] = (asked, told)

    def read() -> dict[str, tuple[bool, bool]]:
        assert agentlightning.flush(10)
        return dict(found)

    agentlightning.add_span_listener(note)
    yield read
    agentlightning.remove_span_listener(note)


def ask(url: str, *, stream: bool = False) -> None:
    """Ask a model of smolagents that has a client of OpenAI."""
    from smolagents import OpenAIServerModel

    model: Any = OpenAIServerModel("gpt-4o-mini", api_base=url, api_key="x", client_kwargs={"max_retries": 0})
    question = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    try:
        if stream and hasattr(model, "generate_stream"):
            list(model.generate_stream([question]))
        else:
            model.generate([question])
    finally:
        model.client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_content_is_stored_once(messages: Any, *, stream: bool) -> None:
    """What a model of smolagents asks through the client of OpenAI is on the client's span, and not twice."""
    importlib.import_module("openai")  # it is instrumented where it is imported
    TelemetryManager.get_instance().initialize()
    with ModelServer(AgentRule()) as server:
        ask(server.url, stream=stream)
    assert messages() == {"model": (False, False), "client": (True, True)}


def test_content_is_kept_where_only_one_has_it(messages: Any, kit: Any) -> None:
    """Without the client's span, and where a call fails before the client, the model's span has the messages."""
    from agentlightning.instrumentation import registry

    TelemetryManager.get_instance().initialize()
    registry.stop("openai")
    with ModelServer(AgentRule()) as server:
        ask(server.url)
    assert messages() == {"model": (True, True)}
    agentlightning.instrument_all()
    with pytest.raises(Exception, match="onnection"):
        ask("http://127.0.0.1:9/v1")
    assert messages()["model"] == (True, False)
    kit.Scripted("hello").generate([{"role": "user", "content": "hi"}])
    assert messages()["model"] == (True, True)


def test_switching_off_leaves_the_programs_own_tracing(kit: Any, kinds: Any) -> None:
    """Sessions that are switched off do not end the tracing that the program began itself."""
    agentlightning.OtelTracer().init()
    manager = TelemetryManager.get_instance()
    manager.initialize()
    manager.disable_telemetry()
    kit.coder(kit.code("final_answer(1)")).run("x")
    assert kinds()["AGENT"] == 1
    assert manager.get_collector().get_session_data().total_tokens.total_tokens == 0
