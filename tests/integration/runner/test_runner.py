"""What a runner does with rollouts: run, record, retry, give back."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import (
    LLM,
    Hook,
    LitAgent,
    OtelTracer,
    RolloutConfig,
    Span,
    configure,
    emit_message,
    llm_rollout,
    open_store,
)
from agentlightning.runner import LitAgentRunner
from agentlightning.runner.alert import Alert, Health

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from agentlightning import Rollout
    from agentlightning.store.base import LightningStore

    MakeRunner = Callable[..., LitAgentRunner[Any]]


MODEL = LLM(endpoint="http://127.0.0.1:1/v1", model="m")


class AsyncAgent(LitAgent[Any]):
    """Calls an async function for each task."""

    def __init__(self, work: Callable[[Any], Awaitable[Any]]) -> None:
        super().__init__()
        self._work = work

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
        return await self._work(task)


class PlainAgent(LitAgent[Any]):
    """Calls a function for each task."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        super().__init__()
        self._work = work

    def rollout(self, task: Any, resources: Any, rollout: Any) -> Any:
        return self._work(task)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LightningStore]:
    """Give a SQLite store of the test's own."""
    store = open_store(str(tmp_path / "own.db"))
    yield store
    store.close()


@pytest.fixture
def make_runner() -> Callable[..., LitAgentRunner[Any]]:
    """Return a function that makes a runner which looks at the queue often."""

    def make(**options: Any) -> LitAgentRunner[Any]:
        return LitAgentRunner(OtelTracer(), poll_interval=0.05, **options)

    return make


async def statuses(store: LightningStore, rollout_id: str) -> list[str]:
    """Return the status of a rollout and those of its attempts."""
    rollout = await store.get_rollout_by_id(rollout_id)
    assert rollout is not None
    return [rollout.status, *(attempt.status for attempt in await store.query_attempts(rollout_id))]


async def test_step_runs_one_task(store: LightningStore, make_runner: MakeRunner) -> None:
    """``step`` injects the resources it is given, records the reward, and returns the finished rollout."""

    @llm_rollout
    async def agent(task: str, llm: LLM, rollout: Rollout) -> float:
        emit_message(f"{task} {llm.model} {rollout.id == rollout.rollout_id}")
        return 0.5

    with make_runner().run_context(agent=agent, store=store) as runner:
        rollout = await runner.step("hello", resources={"main": MODEL}, mode="val")
        assert agent.get_runner() is runner
        assert agent.tracer is runner.tracer
    assert (rollout.input, rollout.mode, rollout.status) == ("hello", "val", "succeeded")
    spans = await store.query_spans(rollout.rollout_id, "latest")
    assert [span.name for span in spans] == ["agentlightning.message", "agentlightning.reward"]
    assert spans[0].attributes["message"] == "hello m True"
    assert spans[1].attributes["reward"] == 0.5


async def test_step_raises_what_the_agent_raised(store: LightningStore, make_runner: MakeRunner) -> None:
    """In interactive use the agent's own exception comes back, after the failure has been recorded."""
    error = ValueError("broken")

    def work(task: object) -> None:
        raise error

    with make_runner().run_context(agent=PlainAgent(work), store=store) as runner, pytest.raises(ValueError) as caught:
        await runner.step("x")
    assert caught.value is error
    (rollout,) = await store.query_rollouts()
    assert await statuses(store, rollout.rollout_id) == ["failed", "failed"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(3), StopIteration(), BaseException("odd")])
async def test_an_agent_that_raises_costs_its_attempt(
    store: LightningStore, make_runner: MakeRunner, error: BaseException
) -> None:
    """The attempt is failed with the exception as a span, the next tasks run, and retries follow the configuration."""

    def work(task: object) -> float:
        if task == "bad":
            raise error
        return 1.0

    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    bad = await store.enqueue_rollout("bad", config=config)
    good = await store.enqueue_rollout("good")
    with make_runner(max_rollouts=3).run_context(agent=PlainAgent(work), store=store) as runner:
        await runner.iter()
    assert await statuses(store, bad.rollout_id) == ["failed", "failed", "failed"]
    assert await statuses(store, good.rollout_id) == ["succeeded", "succeeded"]
    spans = await store.query_spans(bad.rollout_id)
    assert [span.name for span in spans] == ["agentlightning.exception"] * 2
    assert type(error).__name__ in str(spans[0].attributes["exception.type"])


async def test_an_async_agent_may_exit_too(store: LightningStore, make_runner: MakeRunner) -> None:
    """``sys.exit`` in an async agent ends its attempt and not the runner."""

    async def work(task: object) -> None:
        raise SystemExit(1)

    rollouts = await store.enqueue_rollouts(["a", "b"])
    with make_runner(max_rollouts=2).run_context(agent=AsyncAgent(work), store=store) as runner:
        await runner.iter()
    assert [await statuses(store, found.rollout_id) for found in rollouts] == [["failed", "failed"]] * 2


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_an_agent_that_hangs_is_timed_out(store: LightningStore, make_runner: MakeRunner, kind: str) -> None:
    """After ``timeout_seconds`` the attempt is ``timeout``, is retried as configured, and the run goes on."""
    released = threading.Event()
    calls: list[object] = []

    async def work_async(task: object) -> None:
        calls.append(task)
        if task == "slow" and len(calls) == 1:
            await asyncio.Event().wait()

    def work(task: object) -> None:
        calls.append(task)
        if task == "slow" and len(calls) == 1:
            released.wait(20)

    config = RolloutConfig(timeout_seconds=0.3, max_attempts=2, retry_condition=["timeout"])
    slow = await store.enqueue_rollout("slow", config=config)
    fast = await store.enqueue_rollout("fast")
    agent = AsyncAgent(work_async) if kind == "async" else PlainAgent(work)
    with make_runner(max_rollouts=3).run_context(agent=agent, store=store) as runner:
        await runner.iter()
    released.set()
    assert await statuses(store, slow.rollout_id) == ["succeeded", "timeout", "succeeded"]
    assert await statuses(store, fast.rollout_id) == ["succeeded", "succeeded"]
    names = [span.name for span in await store.query_spans(slow.rollout_id)]
    assert names == ["agentlightning.exception"]


async def test_many_rollouts_at_once_stay_apart(store: LightningStore, make_runner: MakeRunner) -> None:
    """200 async rollouts in one process overlap, and each has exactly its own spans."""
    running = peak = 0
    together = asyncio.Event()

    async def work(task: object) -> float:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        if running >= 20:
            together.set()
        await asyncio.wait_for(together.wait(), 15)  # however slowly they are claimed, nobody leaves before 20 are here
        for step in range(3):
            emit_message(f"{task} {step}")
            await asyncio.sleep(0.01)
        running -= 1
        return 1.0

    rollouts = await store.enqueue_rollouts([f"t{index}" for index in range(200)])
    with make_runner(max_rollouts=200, concurrency=200).run_context(agent=AsyncAgent(work), store=store) as runner:
        await runner.iter()
        assert runner.health.tracing_success_rate == 1.0
    assert 20 <= peak <= 200
    for rollout in rollouts:
        spans = await store.query_spans(rollout.rollout_id)
        assert [span.attributes.get("message") for span in spans] == [*(f"{rollout.input} {n}" for n in range(3)), None]


async def test_plain_agents_run_at_once_too(store: LightningStore, make_runner: MakeRunner) -> None:
    """Agents that block have a thread each: as many as allowed are at work together."""
    barrier = threading.Barrier(4)

    def work(task: object) -> None:
        barrier.wait(10)  # passes only when four are here
        emit_message(str(task))

    rollouts = await store.enqueue_rollouts(list("abcd"))
    with make_runner(max_rollouts=4, concurrency=4).run_context(agent=PlainAgent(work), store=store) as runner:
        await runner.iter()
    for rollout in rollouts:
        (span,) = await store.query_spans(rollout.rollout_id)
        assert span.attributes["message"] == rollout.input


class Recording(Hook):
    """Notes in which order it is called, and fails on request."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.spans: list[str] = []
        self._fail = fail

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if self._fail:
            raise RuntimeError(name)

    async def on_rollout_start(self, **_: Any) -> None:
        self._note("rollout_start")

    async def on_trace_start(self, **_: Any) -> None:
        self._note("trace_start")

    async def on_trace_end(self, **_: Any) -> None:
        self._note("trace_end")

    async def on_rollout_end(self, *, spans: Any, **_: Any) -> None:
        self.spans = [span.name for span in spans]
        self._note("rollout_end")


async def test_hooks_run_in_order_and_apart(store: LightningStore, make_runner: MakeRunner) -> None:
    """Hooks run around the agent in their order; one that fails is logged, and nothing else cares."""
    bad, good = Recording(fail=True), Recording()

    class Agent(PlainAgent):
        seen: tuple[str, ...] = ()

        def on_rollout_start(self, task: Any, runner: Any, tracer: Any) -> None:
            self.seen += (f"start {task.input}",)

        def on_rollout_end(self, task: Any, rollout: Any, runner: Any, tracer: Any) -> None:
            self.seen += ("end",)

    agent = Agent(lambda _: 1.0)
    with make_runner().run_context(agent=agent, store=store, hooks=[bad, good]) as runner:
        rollout = await runner.step("x")
    expected = ["rollout_start", "trace_start", "trace_end", "rollout_end"]
    assert bad.calls == good.calls == expected
    assert good.spans == ["agentlightning.reward"]
    assert agent.seen == ("start x", "end")
    assert rollout.status == "succeeded"


async def test_a_mixed_list_fails_the_attempt(store: LightningStore, make_runner: MakeRunner) -> None:
    """A list of spans and other things is a ValueError of the attempt; spans alone are stored."""

    def work(task: object) -> object:
        span = Span.from_attributes(attributes={"k": 1}, name="made")
        return [span] if task == "good" else [span, "x"]

    good, bad = await store.enqueue_rollouts(["good", "bad"])
    with make_runner(max_rollouts=2).run_context(agent=PlainAgent(work), store=store) as runner:
        await runner.iter()
    assert await statuses(store, good.rollout_id) == ["succeeded", "succeeded"]
    assert [span.name for span in await store.query_spans(good.rollout_id)] == ["made"]
    assert await statuses(store, bad.rollout_id) == ["failed", "failed"]
    (span,) = await store.query_spans(bad.rollout_id)
    assert "mixes 1 spans" in str(span.attributes["exception.message"])


async def test_missing_resources_fail_the_attempt(store: LightningStore, make_runner: MakeRunner) -> None:
    """An agent that wants a model which nobody gave fails with a message that names agent and parameter."""

    @llm_rollout
    def agent(task: str, llm: LLM) -> None:
        raise AssertionError

    rollout = await store.enqueue_rollout("x")
    with make_runner(max_rollouts=1).run_context(agent=agent, store=store) as runner:
        await runner.iter()
    (span,) = await store.query_spans(rollout.rollout_id)
    assert "agent wants a resource for its parameter 'llm'" in str(span.attributes["exception.message"])


async def test_updated_resources_reach_what_is_enqueued_later(store: LightningStore, make_runner: MakeRunner) -> None:
    """Resources are read once for what was enqueued with them, and anew after an update; copies may be changed."""
    seen: list[str] = []

    @llm_rollout
    def agent(task: str, llm: LLM) -> None:
        seen.append(f"{task} {llm.model}")
        llm.model = "changed by an agent"

    event = threading.Event()
    with make_runner().run_context(agent=agent, store=store) as runner:
        update = await store.add_resources({"main": LLM(endpoint="http://127.0.0.1:1", model="v1")})
        first = await store.enqueue_rollouts(["a", "b"], resources_id=update.resources_id)
        task = asyncio.create_task(runner.iter(event=event))
        await store.wait_for_rollouts(rollout_ids=[one.rollout_id for one in first], timeout=10)
        await store.update_resources(update.resources_id, {"main": LLM(endpoint="http://127.0.0.1:1", model="v2")})
        later = await store.enqueue_rollout("c", resources_id=update.resources_id)
        await store.wait_for_rollouts(rollout_ids=[later.rollout_id], timeout=10)
        event.set()
        await task
    assert seen == ["a v1", "b v1", "c v2"]


async def test_a_stopped_runner_finishes_or_returns(
    store: LightningStore, make_runner: MakeRunner, load: float
) -> None:
    """After the stop event a runner claims nothing, finishes what is quick, and puts the rest back as it was."""
    event, started = threading.Event(), asyncio.Semaphore(0)

    async def work(task: object) -> float:
        started.release()
        await asyncio.sleep(0.2 if task == "quick" else 60)
        return 1.0

    quick, slow, waiting = await store.enqueue_rollouts(["quick", "slow", "waiting"])
    with make_runner(concurrency=2, graceful_timeout=1.0).run_context(agent=AsyncAgent(work), store=store) as runner:
        task = asyncio.create_task(runner.iter(event=event))
        for _ in range(2):
            await started.acquire()
        begun = time.monotonic()
        event.set()
        await task
        assert time.monotonic() - begun < 1 + 2 * load
    assert await statuses(store, quick.rollout_id) == ["succeeded", "succeeded"]
    assert await statuses(store, slow.rollout_id) == ["requeuing", "failed"]
    assert await statuses(store, waiting.rollout_id) == ["queuing"]
    returned = await store.get_rollout_by_id(slow.rollout_id)
    assert returned is not None
    assert returned.config == RolloutConfig()
    # And whoever comes next takes it up.
    with make_runner(max_rollouts=2).run_context(agent=AsyncAgent(_nothing), store=store) as runner:
        await runner.iter()
    assert (await statuses(store, slow.rollout_id))[0] == "succeeded"


async def _nothing(task: object) -> None:
    """Succeed at once."""


async def test_heartbeats_keep_a_long_attempt(store: LightningStore, make_runner: MakeRunner) -> None:
    """An attempt that sends no span for longer than ``unresponsive_seconds`` lives, because its runner does."""

    async def work(task: object) -> float:
        await asyncio.sleep(1.5)
        return 1.0

    config = RolloutConfig(unresponsive_seconds=0.6)
    rollout = await store.enqueue_rollout("x", config=config)
    with make_runner(max_rollouts=1).run_context(agent=AsyncAgent(work), store=store) as runner:
        await runner.iter()
    assert await statuses(store, rollout.rollout_id) == ["succeeded", "succeeded"]


async def test_a_runner_stops_working_on_what_was_taken_over(store: LightningStore, make_runner: MakeRunner) -> None:
    """When a later attempt exists, the heartbeat says so and the agent is cancelled; the later attempt decides."""
    cancelled, started = asyncio.Event(), asyncio.Event()

    async def work(task: object) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    rollout = await store.enqueue_rollout("x")
    options = {"max_rollouts": 1, "heartbeat_interval": 0.1}
    with make_runner(**options).run_context(agent=AsyncAgent(work), store=store) as runner:
        task = asyncio.create_task(runner.iter())
        await started.wait()
        later = await store.start_attempt(rollout.rollout_id)
        await asyncio.wait_for(cancelled.wait(), 10)
        await task
    await store.update_attempt(rollout.rollout_id, later.attempt.attempt_id, status="succeeded")
    assert (await statuses(store, rollout.rollout_id))[0] == "succeeded"


async def test_without_capture_the_loop_goes_on(
    store: LightningStore, make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``AGL_ENABLED=0`` rollouts still run and end; there are no spans."""
    monkeypatch.setenv("AGL_ENABLED", "0")
    rollout = await store.enqueue_rollout("x")
    with make_runner(max_rollouts=1).run_context(agent=PlainAgent(lambda _: 1.0), store=store) as runner:
        await runner.iter()
    assert await statuses(store, rollout.rollout_id) == ["succeeded", "succeeded"]
    assert await store.query_spans(rollout.rollout_id) == []


def test_a_runner_without_agent_says_what_to_do(make_runner: MakeRunner) -> None:
    """Using a runner that was not prepared, or preparing it wrongly, names the remedy."""
    with pytest.raises(RuntimeError, match="run_context"):
        make_runner().get_agent()
    with pytest.raises(RuntimeError, match="run_context"):
        make_runner().get_store()
    with pytest.raises(ValueError, match="concurrency has to be at least 1"):
        make_runner(concurrency=0)
    with pytest.raises(NotImplementedError, match="await iter"):
        make_runner().run()


async def test_an_alert_is_an_event_and_calls_a_function(store: LightningStore, make_runner: MakeRunner) -> None:
    """A rate beyond its threshold is one event in the rollout that noticed it, and one call; errors are logged."""
    alerts: list[Alert] = []

    def on_alert(alert: Alert) -> None:
        alerts.append(alert)
        raise RuntimeError

    def work(task: int) -> None:
        if task < 12:
            raise ValueError

    configure(alert_failure_rate=0.5)
    rollouts = await store.enqueue_rollouts(list(range(15)))
    with make_runner(max_rollouts=15, on_alert=on_alert).run_context(agent=PlainAgent(work), store=store) as runner:
        await runner.iter()
        assert runner.health.failure_rate == 12 / 15
    assert alerts == [Alert("failure_rate", 1.0, 0.5)]
    spans = [span for rollout in rollouts for span in await store.query_spans(rollout.rollout_id)]
    (event,) = [event for span in spans for event in span.events if event.name == "agentlightning.alert"]
    assert event.attributes == {"name": "failure_rate", "value": 1.0, "threshold": 0.5}


def test_alerts_come_again_only_after_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate that stays bad is told once, and once more when it was good in between."""
    monkeypatch.setenv("AGL_ENABLED", "0")
    health = Health()
    names: list[str] = []
    for traced in [False] * 20 + [True] * 200 + [False] * 20:
        health.note(traced=traced, failed=False)
        names += [alert.name for alert in health.check(0.0)]
    assert names == ["tracing_rate", "tracing_rate"]


def test_a_slow_rollout_is_told_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A duration beyond its threshold is an alert for each rollout; by default there is no threshold."""
    monkeypatch.setenv("AGL_ENABLED", "0")
    assert Health().check(1e9) == []
    configure(alert_duration_s=2.0)
    assert [Health().check(seconds) for seconds in (1.0, 3.0)] == [[], [Alert("duration_s", 3.0, 2.0)]]
