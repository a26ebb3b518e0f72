from __future__ import annotations

import gc
import inspect
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import StatusCode
from smolagents import agents, local_python_executor, models, tools
from smolagents.tools import Tool
from smolagents.utils import AgentError

from agentlightning import semconv

if TYPE_CHECKING:
    from agentlightning.instrumentation.smolagents import SmolagentsInstrumentor

ANSWER = "final_answer(3)"


@pytest.fixture(autouse=True)
def no_leaked_context() -> Any:
    """Whatever happens, the caller's context is what it was."""
    before = context.get_current()
    yield
    assert context.get_current() == before
    assert trace.get_current_span() is trace.INVALID_SPAN


def statuses(spans: Any) -> dict[str, StatusCode]:
    """Return the status of the spans by name."""
    return {span.name: span.status.status_code for span in spans.all()}


def both(instrumentor: SmolagentsInstrumentor, work: Any) -> tuple[Any, Any]:
    """Return what *work* raises with and without instrumentation."""
    with pytest.raises(BaseException) as traced:
        work()
    instrumentor.uninstrument()
    with pytest.raises(BaseException) as bare:
        work()
    return traced.value, bare.value


def test_a_failing_model_fails_the_run(kit: Any, instrumented: SmolagentsInstrumentor, spans: Any) -> None:
    """Model call and run are errors, the caller gets smolagents' error, and the next run is a trace of its own (O2)."""
    error = ConnectionError("no model")
    traced, bare = both(instrumented, lambda: kit.coder(error).run("x"))
    assert type(traced) is type(bare)
    assert str(traced) == str(bare)
    assert statuses(spans) == {"CodeAgent.run": StatusCode.ERROR, "Scripted.generate": StatusCode.ERROR}
    instrumented.instrument(spans.provider)
    kit.coder(kit.code(ANSWER)).run("y")
    assert len({span.context.trace_id for span in spans.all()}) == 2


def test_a_failing_tool_is_an_error_and_the_run_goes_on(kit: Any, spans: Any) -> None:
    """The tool's span has the exception; the agent sees it and goes on (O11)."""
    wanted = kit.calls(("fail", {"reason": "broken"})), kit.calls(("final_answer", {"answer": "x"}))
    assert kit.caller(*wanted).run("x") == "x"
    assert statuses(spans)["fail"] is StatusCode.ERROR
    assert statuses(spans)["ToolCallingAgent.run"] is StatusCode.OK
    failed = next(span for span in spans.all() if span.name == "fail")
    assert [event.attributes["exception.message"] for event in failed.events] == ["broken"]


def test_a_failing_managed_agent_is_an_error_inside(kit: Any, spans: Any) -> None:
    """The managed run is an error under its manager, which goes on (O2)."""
    helper = kit.coder(ConnectionError("no model"), name="helper", description="Helps.")
    agent = kit.coder(kit.code("helper(task='x')"), kit.code(ANSWER), managed_agents=[helper])
    assert agent.run("x") == 3
    assert statuses(spans)["helper.run"] is StatusCode.ERROR
    assert statuses(spans)["CodeAgent.run"] is StatusCode.OK
    assert spans.tree()[2] == "  helper.run"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_passes_through(error: BaseException, kit: Any, spans: Any) -> None:
    """The very object that the model raised reaches the caller, and the spans end."""
    with pytest.raises(type(error)) as info:
        kit.coder(error).run("x")
    assert info.value is error
    assert set(statuses(spans).values()) == {StatusCode.ERROR}
    assert len(spans.all()) == 2


def test_a_callback_that_raises_ends_the_run(kit: Any, instrumented: SmolagentsInstrumentor, spans: Any) -> None:
    """An exception of a step callback aborts the run as without us."""

    def callback(step: Any) -> None:
        raise RuntimeError("callback")

    traced, bare = both(instrumented, lambda: kit.coder(kit.code("x = 1"), step_callbacks=[callback]).run("x"))
    assert type(traced) is type(bare)
    assert statuses(spans)["CodeAgent.run"] is StatusCode.ERROR


def test_the_limit_of_steps_is_noted(kit: Any, spans: Any, read: Any) -> None:
    """A run that was stopped by its limit says so."""
    agent = kit.coder(kit.code("x = 1"), "an answer all the same", max_steps=1)
    agent.run("x")
    assert read(spans, "CodeAgent.run")["smolagents.state"] == "max_steps_error"


def test_a_streamed_run_is_one_tree(kit: Any, instrumented: SmolagentsInstrumentor, spans: Any, read: Any) -> None:
    """``run(stream=True)`` yields the same items from a generator, and ends its span with the answer (O9)."""
    generator = kit.coder(kit.code(ANSWER)).run("x", stream=True)
    assert inspect.isgenerator(generator)
    items = [type(item).__name__ for item in generator]
    assert spans.tree() == ["CodeAgent.run", "  Scripted.generate", "  final_answer"]
    assert read(spans, "CodeAgent.run")[semconv.OUTPUT_VALUE] == "3"
    instrumented.uninstrument()
    assert [type(item).__name__ for item in kit.coder(kit.code(ANSWER)).run("x", stream=True)] == items


def test_a_streamed_run_leaves_the_readers_context_alone(kit: Any, spans: Any) -> None:
    """Between two items the reader's own spans are not part of the run (O7)."""
    tracer = spans.provider.get_tracer("test")
    for _ in kit.coder(kit.code("x = 1"), kit.code(ANSWER)).run("x", stream=True):
        assert trace.get_current_span() is trace.INVALID_SPAN
        tracer.start_span("reader").end()
    tree = spans.tree()
    assert "reader" in tree
    assert not [line for line in tree if line.strip() == "reader" and line != "reader"]


def test_a_streamed_run_that_is_left_ends(kit: Any, instrumented: SmolagentsInstrumentor, spans: Any) -> None:
    """Closing the generator ends the span, marked and without an error, and raises what smolagents raises (O3)."""

    def work() -> None:
        generator = kit.coder(kit.code("x = 1"), kit.code(ANSWER)).run("x", stream=True)
        next(generator)
        generator.close()
        raise LookupError

    traced, bare = both(instrumented, work)
    assert (type(traced), str(traced)) == (type(bare), str(bare))
    assert (traced.__context__ is None) == (bare.__context__ is None)
    run = next(span for span in spans.all() if span.name == "CodeAgent.run")
    assert run.attributes[semconv.STREAM_STATE] == "closed_early"
    assert run.status.status_code is not StatusCode.ERROR


def test_a_streamed_run_that_fails_is_an_error(kit: Any, spans: Any) -> None:
    """The error of the model comes out of the generator and is on the span (O8)."""
    with pytest.raises(AgentError):
        list(kit.coder(ConnectionError("no model")).run("x", stream=True))
    assert statuses(spans)["CodeAgent.run"] is StatusCode.ERROR


def test_a_streamed_run_that_nobody_reads_leaves_nothing(kit: Any, spans: Any) -> None:
    """A generator that is never started has no span and no effect on the next run (O4)."""
    generator = kit.coder(kit.code(ANSWER)).run("x", stream=True)
    assert spans.all() == []
    del generator
    gc.collect()
    kit.coder(kit.code(ANSWER)).run("y")
    assert spans.tree()[0] == "CodeAgent.run"
    assert len({span.context.trace_id for span in spans.all()}) == 1


def test_interleaved_streamed_runs_stay_apart(kit: Any, spans: Any) -> None:
    """Two runs that are read in turns are two trees, with everything where it belongs (O6)."""
    steps = kit.code("add(1, 2)"), kit.code(ANSWER)
    one, two = (kit.coder(*steps, name=name, description="d").run("x", stream=True) for name in ("one", "two"))
    for _ in zip(one, two, strict=False):
        pass
    list(one)
    list(two)
    trees = ["  " + line.strip() if line.startswith(" ") else line for line in spans.tree()]
    assert sorted(line for line in trees if not line.startswith(" ")) == ["one.run", "two.run"]
    by_trace: dict[int, int] = {}
    for span in spans.all():
        by_trace[span.context.trace_id] = by_trace.get(span.context.trace_id, 0) + 1
    assert list(by_trace.values()) == [5, 5]


def test_a_streamed_run_may_be_read_in_another_thread(kit: Any, spans: Any) -> None:
    """The parent is where the run was asked for, and nothing is left in either thread (O5)."""
    with spans.provider.get_tracer("test").start_as_current_span("caller"):
        generator = kit.coder(kit.code(ANSWER)).run("x", stream=True)
    thread = threading.Thread(target=list, args=(generator,))
    thread.start()
    thread.join()
    assert spans.tree() == ["caller", "  CodeAgent.run", "    Scripted.generate", "    final_answer"]


def test_a_tool_that_outlives_its_snippets_timeout_hangs_under_the_run(kit: Any, spans: Any) -> None:
    """The thread of the snippet keeps its parent, also when it is given up."""
    if "timeout_seconds" not in inspect.signature(local_python_executor.LocalPythonExecutor).parameters:
        pytest.skip("newer releases have options of the executor")
    done = threading.Event()

    class Slow(Tool):
        name = "slow"
        description = "Waits."
        inputs: Any = {}  # noqa: RUF012 - as the library has it
        output_type = "string"

        def forward(self) -> str:
            done.wait(5)
            return "late"

    agent = kit.coder(kit.code("slow()"), kit.code(ANSWER), tools=(Slow(),), executor_kwargs={"timeout_seconds": 0.1})
    threading.Timer(0.3, done.set).start()
    agent.run("x")
    assert "  slow" in spans.tree()


def snapshot() -> dict[tuple[Any, str], object]:
    """Return every attribute that could be touched."""
    owners: list[Any] = [local_python_executor, agents]
    waiting: list[Any] = [models.Model, tools.Tool, agents.MultiStepAgent, *tools.Tool.__mro__[1:-1]]
    while waiting:
        owner: Any = waiting.pop()
        if owner not in owners:
            owners.append(owner)
            waiting.extend(owner.__subclasses__())
    names: list[tuple[Any, str]] = [(owner, name) for owner in owners for name in list(owner.__dict__)]
    return {(owner, name): inspect.getattr_static(owner, name) for owner, name in names}


def test_uninstrumenting_restores_exactly(kit: Any, instrumented: SmolagentsInstrumentor, spans: Any) -> None:
    """Every attribute of the library's classes is the same object as before, and added ones are gone (O15)."""
    gc.collect()
    instrumented.uninstrument()
    before = snapshot()
    instrumented.instrument(spans.provider)
    instrumented.instrument(spans.provider)
    assert snapshot() != before
    kit.coder(kit.code(ANSWER)).run("x")
    assert len(spans.all()) == 3
    instrumented.uninstrument()
    instrumented.uninstrument()
    after = snapshot()
    ignored = {"__abstractmethods__", "_abc_impl", "__annotations__", "__static_attributes__"}
    changed = [key for key, value in before.items() if key[1] not in ignored and after.get(key) is not value]
    assert changed == []
    assert [key for key in after.keys() - before.keys() if key[1] not in ignored] == []
    kit.coder(kit.code(ANSWER)).run("x")
    assert len(spans.all()) == 3
