"""A trainer with threads."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import (
    LLM,
    Algorithm,
    Baseline,
    ClientServerExecutionStrategy,
    ExecutionError,
    Hook,
    LitAgent,
    LitAgentRunner,
    OtelTracer,
    RolloutConfig,
    SharedMemoryExecutionStrategy,
    TraceToMessages,
    Trainer,
    algo,
    emit_message,
    open_store,
    rollout,
)
from agentlightning._internal.context import home_rollout
from agentlightning.store import InMemoryLightningStore, LightningStoreThreaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning import Rollout

MODEL = LLM(endpoint="http://127.0.0.1:1/v1", model="m")
RESOURCES: dict[str, Any] = {"main": MODEL}


@rollout
def agent(task: str, llm: LLM) -> float:
    """Say the task and be worth its length."""
    emit_message(task)
    if task == "bad":
        raise ValueError(task)
    return float(len(task))


@rollout
async def agent_async(task: str, llm: LLM) -> float:
    """Say the task and be worth its length."""
    emit_message(task)
    return float(len(task))


class Counting(Hook):
    """Counts rollouts."""

    count = 0

    async def on_rollout_end(self, **_: Any) -> None:
        self.count += 1


def rollouts_of(trainer: Trainer) -> list[Rollout]:
    """Return what a trainer's store holds."""
    return asyncio.run(trainer.store.query_rollouts())


@pytest.mark.parametrize("worker", [agent, agent_async], ids=["plain", "async"])
@pytest.mark.parametrize("n_runners", [1, 3])
def test_dev_runs_every_task(worker: LitAgent[str], n_runners: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``dev`` without anything else runs each task once in a private store, calls the hooks, and returns."""
    monkeypatch.delenv("AGL_STORE")
    hook = Counting()
    trainer = Trainer(n_runners=n_runners, initial_resources=RESOURCES, hooks=hook)
    trainer.dev(worker, ["a", "bb", "bad", "cccc"], val_dataset=["v"])
    found = rollouts_of(trainer)
    status = "failed" if worker is agent else "succeeded"
    assert [(one.input, one.mode, one.status) for one in found] == [
        ("a", "train", "succeeded"), ("bb", "train", "succeeded"), ("bad", "train", status),
        ("cccc", "train", "succeeded"), ("v", "val", "succeeded"),
    ]  # fmt: skip
    assert hook.count == 5
    assert isinstance(trainer.store, InMemoryLightningStore)
    spans = asyncio.run(trainer.store.query_spans(found[1].rollout_id))
    assert [span.attributes.get("reward") for span in spans] == [None, 2.0]
    assert worker.trainer is trainer


def test_fit_runs_the_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """``fit`` gives the algorithm store, data, adapter and resources, and lets it see the spans of what it enqueued."""
    monkeypatch.delenv("AGL_STORE")
    seen: dict[str, Any] = {}

    @algo
    async def train(store: Any, train_dataset: Any, adapter: Any, initial_resources: Any) -> None:
        update = await store.add_resources(initial_resources)
        config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
        queued = await store.enqueue_rollouts(train_dataset, resources_id=update.resources_id, config=config)
        ids = [one.rollout_id for one in queued]
        done = await store.wait_for_rollouts(rollout_ids=ids, timeout=10)
        seen.update({one.input: (one.status, len(await store.query_attempts(one.rollout_id))) for one in done})
        seen["adapter"] = adapter

    adapter = TraceToMessages()
    Trainer(algorithm=train, n_runners=2, initial_resources=RESOURCES, adapter=adapter).fit(agent, ["good", "bad"])
    assert seen == {"good": ("succeeded", 1), "bad": ("failed", 2), "adapter": adapter}


def test_a_plain_algorithm_may_use_event_loops() -> None:
    """A plain function runs on a thread of its own, where ``asyncio.run`` works."""
    statuses: list[str] = []

    @algo
    def train(store: Any, train_dataset: Any) -> None:
        async def work() -> None:
            update = await store.add_resources(RESOURCES)
            queued = await store.enqueue_rollout(train_dataset[0], resources_id=update.resources_id)
            (done,) = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=10)
            statuses.append(done.status)

        asyncio.run(work())

    Trainer(algorithm=train).fit(agent, ["x"])
    assert statuses == ["succeeded"]


def test_the_private_store_is_copied(isolated: Any) -> None:
    """Rollouts of the private store arrive in ``$AGL_STORE``, with ids, retries, spans and resources; once only."""

    @algo
    async def train(store: Any) -> None:
        update = await store.add_resources(RESOURCES)
        config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
        for task in ("fine", "bad"):
            queued = await store.enqueue_rollout(task, "train", update.resources_id, config, {"k": task})
            await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=10)

    trainer = Trainer(algorithm=train)
    trainer.fit(agent)
    trainer.fit(agent)
    target = open_store(str(isolated / "agentlightning.db"))
    mine, theirs = rollouts_of(trainer), asyncio.run(target.query_rollouts())
    assert len(mine) == 4

    def described(rollouts: list[Rollout]) -> list[Any]:
        return [(r.rollout_id, r.input, r.status, r.mode, r.config, r.metadata) for r in rollouts]

    assert described(mine) == described(theirs)
    fine, bad = theirs[:2]
    for copied in theirs:
        attempts = asyncio.run(target.query_attempts(copied.rollout_id))
        originals = asyncio.run(trainer.store.query_attempts(copied.rollout_id))
        assert [(a.attempt_id, a.sequence_id, a.status, a.worker_id) for a in attempts] == [
            (a.attempt_id, a.sequence_id, a.status, a.worker_id) for a in originals
        ]
    assert [a.status for a in asyncio.run(target.query_attempts(bad.rollout_id))] == ["failed", "failed"]
    names = [span.name for span in asyncio.run(target.query_spans(bad.rollout_id, "latest"))]
    assert names == ["agentlightning.message", "agentlightning.exception"]
    assert fine.resources_id is not None
    resources = asyncio.run(target.get_resources_by_id(fine.resources_id))
    assert resources is not None
    assert resources.resources == RESOURCES
    target.close()


@pytest.mark.parametrize("private", [True, False])
def test_rollouts_of_an_algorithm_name_the_run_they_are_in(
    private: bool, isolated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside ``agl run`` all that an algorithm makes is inside the run's rollout, in a store of its own too."""
    monkeypatch.setenv("AGL_ROLLOUT_ID", "ro-outer")
    monkeypatch.setenv("AGL_ATTEMPT_ID", "at-outer")
    home_rollout.cache_clear()
    path = isolated / "own.db"

    @algo
    async def train(store: Any) -> None:
        await store.add_resources(RESOURCES)
        made = [await store.enqueue_rollout("one", "train", None, None, {"k": 1}), await store.enqueue_rollout("two")]
        made += await store.enqueue_rollouts(["three"], metadata={"parent_rollout_id": "ro-other"})
        await store.wait_for_rollouts(rollout_ids=[one.rollout_id for one in made], timeout=10)

    try:
        trainer = Trainer(algorithm=train, store=None if private else open_store(str(path)))
        trainer.fit(agent)
    finally:
        monkeypatch.delenv("AGL_ROLLOUT_ID")
        home_rollout.cache_clear()
    expected = [("one", "ro-outer", 1), ("two", "ro-outer", None), ("three", "ro-other", None)]
    for store in (trainer.store, open_store(str(isolated / "agentlightning.db")) if private else trainer.store):
        found = asyncio.run(store.query_rollouts())
        metadata = [one.metadata or {} for one in found]
        assert [(r.input, m.get("parent_rollout_id"), m.get("k")) for r, m in zip(found, metadata, strict=True)] == (
            expected
        )
        assert [one.status for one in found] == ["succeeded"] * 3
        store.close()


def test_a_store_of_ones_own_is_used(tmp_path: Any) -> None:
    """With ``store=`` everything is there and nowhere else, and a store that is not thread-safe gets a thread."""

    @algo
    async def train(store: Any) -> None:
        seen.append(isinstance(store, LightningStoreThreaded))

    seen: list[bool] = []
    inner = LightningStoreThreaded(open_store(str(tmp_path / "own.db")))
    Trainer(algorithm=train, store=inner).fit(agent)
    assert seen == [True]
    inner.close()


def test_errors_of_the_algorithm_come_back() -> None:
    """What the algorithm raises is raised by ``fit``, after the runners were stopped."""

    @algo
    async def train(store: Any) -> None:
        raise KeyError("mine")

    before = threading.active_count()
    with pytest.raises(KeyError, match="mine"):
        Trainer(algorithm=train, n_runners=2).fit(agent)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("agentlightning-run")]
    assert threading.active_count() <= before + 2  # the pipeline's worker and the store's


@algo
async def waits_for_ever(store: Any) -> None:
    """Never end."""
    await asyncio.Event().wait()


def test_the_run_ends_when_the_runners_are_done() -> None:
    """After ``max_rollouts`` an algorithm that waits for more is cancelled."""
    strategy = SharedMemoryExecutionStrategy(main_thread="algorithm", graceful_delay=0.1)
    trainer = Trainer(algorithm=waits_for_ever, strategy=strategy, max_rollouts=1, initial_resources=RESOURCES)
    asyncio.run(trainer.store.add_resources(RESOURCES))
    asyncio.run(trainer.store.enqueue_rollout("x"))
    trainer.fit(agent)
    assert [one.status for one in rollouts_of(trainer)] == ["succeeded"]


class Dying(LitAgentRunner[Any]):
    """A runner that dies when it starts, some times."""

    deaths = 2

    async def iter(self, *, event: Any = None) -> None:
        if Dying.deaths > 0:
            Dying.deaths -= 1
            raise RuntimeError("died")
        await super().iter(event=event)


@pytest.mark.parametrize(("deaths", "lives"), [(2, True), (99, False)])
def test_a_crashed_runner_is_replaced(deaths: int, lives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner whose thread dies is started again; one that dies over and over ends the run with an error."""
    monkeypatch.setattr(Dying, "deaths", deaths)
    trainer = Trainer(runner=Dying, initial_resources=RESOURCES, algorithm=Baseline(polling_interval=0.05))
    if lives:
        trainer.fit(agent, ["a"])
        assert [one.status for one in rollouts_of(trainer)] == ["succeeded"]
    else:
        trainer.strategy = SharedMemoryExecutionStrategy(main_thread="algorithm", graceful_delay=0.1)
        with pytest.raises(ExecutionError, match=r"died 5 times; the last error was RuntimeError\('died'\)"):
            trainer.fit(agent, ["a"])


async def test_it_works_inside_an_event_loop() -> None:
    """In a notebook, where a loop runs already, ``dev`` works all the same."""
    trainer = Trainer(initial_resources=RESOURCES)
    trainer.dev(agent, ["a", "b"])
    assert [one.status for one in await trainer.store.query_rollouts()] == ["succeeded", "succeeded"]


def test_parts_may_be_given_in_many_ways() -> None:
    """A part is an object, a class, a factory, a name, or a dict; what the trainer knows is handed on."""
    tracer = OtelTracer()
    trainer = Trainer(
        tracer=tracer,
        n_workers=3,
        port=4999,
        strategy="cs",
        max_rollouts=7,
        algorithm="agentlightning.algorithm.fast.Baseline",
        runner={"type": "agentlightning.runner.LitAgentRunner", "poll_interval": 0.5, "concurrency": 4},
        store=InMemoryLightningStore,
    )
    assert isinstance(trainer.strategy, ClientServerExecutionStrategy)
    assert (trainer.strategy.n_runners, trainer.strategy.server_port, trainer.n_runners) == (3, 4999, 3)
    assert isinstance(trainer.algorithm, Baseline)
    assert isinstance(trainer.runner, LitAgentRunner)
    runner: LitAgentRunner[Any] = trainer.runner
    assert runner.tracer is tracer
    assert {"_poll_interval": 0.5, "_concurrency": 4, "_max_rollouts": 7}.items() <= vars(runner).items()
    assert isinstance(Trainer(strategy=SharedMemoryExecutionStrategy).strategy, SharedMemoryExecutionStrategy)
    assert Trainer(algorithm=lambda: Baseline(n_epochs=3)).algorithm.n_epochs == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"strategy": "threads"}, ValueError, "strategy='threads' names nothing .*one of shm, cs"),
        ({"algorithm": 5}, TypeError, "algorithm=5 is neither an Algorithm, nor a class"),
        ({"runner": OtelTracer}, TypeError, "makes OtelTracer, which is not a Runner"),
        ({"store": {"url": "x"}}, ValueError, "has no 'type'"),
        ({"hooks": [5]}, TypeError, "hooks has to hold Hook objects, not int"),
        ({"n_runners": 2, "n_workers": 3}, ValueError, "n_workers is another name for n_runners"),
    ],
)
def test_wrong_parts_are_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    """A part that makes no sense is an error that names the argument and what is wanted."""
    with pytest.raises(error, match=words):
        Trainer(**arguments)


def test_wrong_use_is_refused_before_anything_runs() -> None:
    """No algorithm, a slow one for ``dev``, a bare function as agent, a dataset nobody takes: said at once."""

    def bare(task: str, llm: LLM) -> None: ...

    @algo
    async def train(store: Any) -> None:
        raise AssertionError

    calls: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: Trainer().fit(agent), ValueError, r"fit\(\) needs an algorithm"),
        (lambda: Trainer(algorithm=train).dev(agent), ValueError, "no FastAlgorithm; call fit"),
        (lambda: Trainer().dev(bare), TypeError, r"bare is no LitAgent; decorate .*@rollout, or pass wrap"),  # type: ignore[arg-type]
        (lambda: Trainer().dev(agent), ValueError, "agent wants a resource for its parameter 'llm'.*none at all"),
        (lambda: Trainer(algorithm=train).fit(agent, ["x"]), TypeError, r"train\(store\) takes no 'train_dataset'"),
    ]
    for call, error, words in calls:
        with pytest.raises(error, match=words):
            call()
    with pytest.raises(NotImplementedError, match="Algorithm has to define run"):
        Trainer(algorithm=Algorithm()).fit(agent)


@pytest.mark.parametrize(
    ("strategy", "arguments", "words"),
    [
        (SharedMemoryExecutionStrategy, {"n_runners": 0}, "n_runners has to be at least 1"),
        (SharedMemoryExecutionStrategy, {"n_runners": 2}, "main_thread='algorithm'"),
        (ClientServerExecutionStrategy, {"n_runners": 0}, "n_runners has to be at least 1"),
        (ClientServerExecutionStrategy, {"n_runners": 2, "main_process": "runner"}, "main_process='algorithm'"),
        (ClientServerExecutionStrategy, {"role": "boss"}, "use 'algorithm', 'runner' or 'both'"),
    ],
)
def test_strategies_check_their_arguments(strategy: Any, arguments: dict[str, Any], words: str) -> None:
    """A strategy that cannot work is refused when it is made."""
    with pytest.raises(ValueError, match=words):
        strategy(**arguments)
