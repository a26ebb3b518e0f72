"""Wrapping agents and models by hand, for any class that looks like one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock, Mock, patch

import pytest

from ai_agents.telemetry import (
    AgentInstrumentor,
    AgentType,
    LLMCall,
    TaskStatus,
    TelemetryCollector,
    TelemetryErrorHandler,
    TelemetryInstrumentedAgent,
    TelemetryManager,
    instrument_smolagents_models,
    instrumentation,
    telemetry_context,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Usage:
    """Tokens as smolagents reports them."""

    def __init__(self, prompt: int, completion: int) -> None:
        self.input_tokens, self.output_tokens = prompt, completion


class Message:
    """An answer, or a piece of one."""

    def __init__(self, prompt: int, completion: int) -> None:
        self.token_usage = Usage(prompt, completion)


def make_model() -> type[Any]:
    """Return a class of models that is nobody else's."""

    class Model:
        model_id = "m-1"
        error: BaseException | None = None

        def generate(self, messages: Any) -> Message:
            if self.error is not None:
                raise self.error
            return Message(10, 5)

        def generate_stream(self, messages: Any) -> Iterator[Message]:
            yield Message(5, 7)
            if self.error is not None:
                raise self.error
            yield Message(0, 7)
            yield Message(0, 7)

    return Model


@pytest.fixture
def collector() -> Any:
    """A collector that notes what it is told."""
    return Mock(spec=TelemetryCollector)


@pytest.fixture
def instrumentor(collector: Any) -> AgentInstrumentor:
    """An instrumentor with a handler of its own."""
    return AgentInstrumentor(collector, TelemetryErrorHandler())


def only_call(collector: Any) -> LLMCall:
    """Return the one call that was recorded; it is the first argument by place, the ids come by name."""
    collector.record_llm_call.assert_called_once()
    arguments = collector.record_llm_call.call_args
    assert set(arguments.kwargs) == {"task_id", "agent_id"}
    (call,) = arguments.args
    assert isinstance(call, LLMCall)
    return call


def test_call_is_recorded_once(collector: Any, instrumentor: AgentInstrumentor) -> None:
    """A call is recorded with model, tokens and time; wrapping twice changes nothing."""
    model_class = make_model()
    assert instrumentor.instrument_model_calls(model_class) is model_class
    instrumentor.instrument_model_calls(model_class)
    assert len(vars(instrumentor)["_original_methods"]) == 2
    assert model_class().generate([]).token_usage.input_tokens == 10
    call = only_call(collector)
    assert (call.model, call.prompt_tokens, call.completion_tokens) == ("m-1", 10, 5)
    assert call.duration > 0


def test_stream_is_recorded_once(collector: Any, instrumentor: AgentInstrumentor) -> None:
    """A stream is a generator as before, recorded when it ends, with the sum of its tokens."""
    model_class = make_model()
    instrumentor.instrument_model_calls(model_class)
    stream = model_class().generate_stream([])
    assert inspect.isgenerator(stream)
    collector.record_llm_call.assert_not_called()
    assert len(list(stream)) == 3
    call = only_call(collector)
    assert (call.prompt_tokens, call.completion_tokens) == (5, 21)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize("streams", [False, True])
def test_errors_pass_and_are_recorded(
    collector: Any, instrumentor: AgentInstrumentor, error: BaseException, *, streams: bool
) -> None:
    """The model's own error reaches the caller, the same object; the call is recorded without tokens (B5)."""
    model_class = make_model()
    instrumentor.instrument_model_calls(model_class)
    model = model_class()
    model.error = error
    with pytest.raises(type(error)) as caught:
        list(model.generate_stream([])) if streams else model.generate([])
    assert caught.value is error
    call = only_call(collector)
    assert (call.total_tokens, call.failed) == (0, True)
    assert call.duration > 0


def test_stream_that_is_left(collector: Any, instrumentor: AgentInstrumentor) -> None:
    """A stream that is closed early is recorded with what came; one that nobody reads is no call."""
    model_class = make_model()
    instrumentor.instrument_model_calls(model_class)
    model_class().generate_stream([])
    stream = model_class().generate_stream([])
    next(stream)
    stream.close()
    assert only_call(collector).completion_tokens == 7


def test_inherited_methods_are_wrapped_once(collector: Any, instrumentor: AgentInstrumentor) -> None:
    """A class without methods of its own is tracked and not changed, and ``super()`` counts once (B3)."""
    base: Any = make_model()
    empty: Any = type("Empty", (base,), {})

    class Calling(base):
        def generate(self, messages: Any) -> Any:
            parent: Any = super()
            return parent.generate(messages)

    for model_class in (base, empty, Calling):
        instrumentor.instrument_model_calls(model_class)
    assert "generate" not in vars(empty)
    assert len(vars(instrumentor)["_instrumented_classes"]) == 3
    empty().generate([])
    Calling().generate([])
    assert collector.record_llm_call.call_count == 2


def test_everything_is_put_back(instrumentor: AgentInstrumentor) -> None:
    """Undoing restores what is still ours, leaves what somebody else set since, and may be repeated."""
    one: Any = make_model()
    other: Any = make_model()
    before = one.generate, other.generate_stream
    instrumentor.instrument_model_calls(one)
    instrumentor.instrument_model_calls(other)
    foreign = Mock()
    other.generate = foreign
    instrumentor.uninstrument_all()
    instrumentor.uninstrument_all()
    assert (one.generate, other.generate_stream) == before
    assert other.generate is foreign
    assert vars(instrumentor)["_instrumented_classes"] == []


def test_broken_collector_harms_nobody(collector: Any) -> None:
    """A collector that raises, and a handler that raises too, change neither result nor number of calls (B2)."""
    collector.record_llm_call.side_effect = ValueError
    handler = Mock()
    handler.handle_instrumentation_error.side_effect = ValueError
    model_class = make_model()
    AgentInstrumentor(collector, handler).instrument_model_calls(model_class)
    assert model_class().generate([]).token_usage.output_tokens == 5
    assert len(list(model_class().generate_stream([]))) == 3
    assert handler.handle_instrumentation_error.call_count == 2


def test_smolagents_models(collector: Any) -> None:
    """All model classes of smolagents are wrapped by the class that is there at the call, errors are handled."""
    with patch.object(instrumentation, "AgentInstrumentor") as replaced:
        assert instrument_smolagents_models(collector, Mock()) is replaced.return_value
        assert replaced.return_value.instrument_model_calls.call_count >= 3
        handler = Mock()
        replaced.return_value.instrument_model_calls.side_effect = ValueError
        assert instrument_smolagents_models(collector, handler) is replaced.return_value
        handler.handle_instrumentation_error.assert_called_once()


def test_models_by_hand_and_by_span_count_once() -> None:
    """With the manager's collector, whose calls come as spans, wrapping the models too records nothing twice."""
    import smolagents.models as library

    from ai_agents.telemetry import get_error_handler

    models: Any = library

    class Mine(models.Model):
        def generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            if hasattr(models, "TokenUsage"):
                return models.ChatMessage(role="assistant", content="x", token_usage=models.TokenUsage(3, 4))
            # Releases below 1.18 leave the counts on the model.
            self.last_input_token_count, self.last_output_token_count = 3, 4
            return models.ChatMessage(role="assistant", content="x")

    manager = TelemetryManager.get_instance()
    instrumentor = instrument_smolagents_models(manager.get_collector(), get_error_handler())
    try:
        Mine().generate([])
        duck = make_model()
        instrumentor.instrument_model_calls(duck)
        duck().generate([])
    finally:
        instrumentor.uninstrument_all()
    session = manager.get_session_data()
    assert session is not None
    assert session.total_tokens.total_tokens == 7 + 15


class Worker:
    """An agent of no library."""

    def __init__(self) -> None:
        self.state = "fresh"

    def run(self, task: str, *extra: Any, **options: Any) -> Any:
        """Do it."""
        if task == "fail":
            raise ValueError(task)
        return (item for item in "ab") if options.get("stream") else task.upper()

    def __call__(self, task: str, **options: Any) -> str:
        return "called " + task


def wrapped(collector: Any, **options: Any) -> Any:
    """Return a wrapped worker."""
    return TelemetryInstrumentedAgent(Worker(), "worker", telemetry_collector=collector, **options)


def test_run_is_recorded(collector: Any) -> None:
    """Runs and calls are recorded by name, with an id of kind, name and eight digits."""
    agent = wrapped(collector)
    assert agent.run("x") == "X"
    started = collector.start_agent_execution.call_args
    assert started.args == ()
    assert set(started.kwargs) == {"agent_id", "agent_type", "agent_name", "task_id"}
    assert started.kwargs["agent_type"] is AgentType.MICRO
    kind, name, digits = started.kwargs["agent_id"].split("_")
    assert (kind, name, len(digits)) == ("micro", "worker", 8)
    assert collector.end_agent_execution.call_args.kwargs["status"] is TaskStatus.COMPLETED
    assert agent("y") == "called y"
    assert collector.start_agent_execution.call_count == 2


def test_failure_is_recorded_and_passed(collector: Any) -> None:
    """An error goes to the caller, and is in the record."""
    with pytest.raises(ValueError, match="fail"):
        wrapped(collector).run("fail")
    ended = collector.end_agent_execution.call_args.kwargs
    assert (ended["status"], ended["error_message"]) == (TaskStatus.FAILED, "ValueError: fail")


def test_stream_ends_when_it_is_read(collector: Any) -> None:
    """A streamed run is over when its stream is (B5)."""
    stream = wrapped(collector).run("x", stream=True)
    collector.end_agent_execution.assert_not_called()
    assert list(stream) == ["a", "b"]
    collector.end_agent_execution.assert_called_once()


def test_wrapper_is_like_the_agent(collector: Any) -> None:
    """Attributes are the agent's, read and written, ``isinstance`` holds, without collector nothing is done (B8)."""
    agent = wrapped(collector)
    inner: Any = object.__getattribute__(agent, "_agent")
    agent.state = "used"
    assert (inner.state, agent.state) == ("used", "used")
    with pytest.raises(AttributeError):
        _ = agent.nothing
    assert isinstance(agent, Worker)
    plain = TelemetryInstrumentedAgent(Worker())
    assert plain.run("x") == "X"
    assert plain("x") == "called x"


def test_instance_call_is_used(collector: Any) -> None:
    """A ``__call__`` that was set on the instance is the one that is called."""
    agent = MagicMock()
    agent.__call__ = Mock(return_value="mine")
    assert TelemetryInstrumentedAgent(agent, "a", telemetry_collector=collector)("x") == "mine"


def test_context_is_a_task() -> None:
    """The block begins and ends a task, with the agent's run in it, and never swallows an error."""
    manager = TelemetryManager.get_instance()
    with telemetry_context(Worker(), "worker", "do it", "review", "t1") as agent:
        assert agent.run("x") == "X"
    with pytest.raises(ValueError, match="fail"), telemetry_context(Worker(), "worker", "do it") as agent:
        agent.run("fail")
    session = manager.get_session_data()
    assert session is not None
    good, bad = session.tasks
    assert (good.task_id, good.sop_category, good.status) == ("t1", "review", TaskStatus.COMPLETED)
    assert [(one.agent_type, one.agent_name) for one in good.agents] == [(AgentType.SUPERVISOR, "worker")]
    assert (bad.status, bad.error_message) == (TaskStatus.FAILED, "fail")


def test_inner_context_joins_the_task() -> None:
    """An agent inside the block of the same task joins it, and does not end it (B7)."""
    manager = TelemetryManager.get_instance()
    with telemetry_context(Worker(), "outer", "do it", task_id="t"):
        with telemetry_context(Worker(), "inner", "part", task_id="t", agent_type=AgentType.MICRO) as agent:
            agent.run("x")
        assert list(manager.get_collector().get_active_tasks()) == ["t"]
        manager.get_collector().record_llm_call(model="m", prompt_tokens=1, task_id="t")
    session = manager.get_session_data()
    assert session is not None
    (task,) = session.tasks
    assert [agent.agent_name for agent in task.agents] == ["inner"]
    assert task.get_total_tokens().total_tokens == 1


def test_context_without_telemetry() -> None:
    """Where telemetry is off or broken, the block gives the agent itself."""
    worker = Worker()
    TelemetryManager.get_instance().initialize({"enabled": False})
    with telemetry_context(worker, "worker", "x") as agent:
        assert agent is worker
    with (
        patch.object(TelemetryManager, "get_instance", side_effect=ValueError),
        telemetry_context(worker, "worker", "x") as agent,
    ):
        assert agent is worker
