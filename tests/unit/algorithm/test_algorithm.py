"""Algorithms made of functions, and the base class."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import LLM, Algorithm, MissingExtraError, algo
from agentlightning.algorithm import VERL, Baseline
from agentlightning.server.proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = LLM(endpoint="http://127.0.0.1:1/v1", model="m")


class Adapter:
    """Something that can be held weakly."""


def test_a_function_gets_what_it_names() -> None:
    """Store, datasets, proxy, adapter and initial resources are injected by name, and nothing else."""
    store, adapter = InMemoryLightningStore(), Adapter()
    proxy = LLMProxy(MODEL, store=store)
    seen: dict[str, Any] = {}

    @algo
    def train(  # noqa: PLR0917 - all that there is
        store: Any,
        train_dataset: Any,
        val_dataset: Any,
        llm_proxy: Any,
        adapter: Any,
        initial_resources: Any,
        rate: float = 0.1,
    ) -> None:
        """Learn."""
        seen.update(locals())

    assert isinstance(train, Algorithm)
    assert (train.__doc__, train.is_async()) == ("Learn.", False)
    train.set_store(store)
    train.set_adapter(adapter)
    train.set_llm_proxy(proxy)
    train.set_initial_resources({"main": MODEL})
    assert train.run([1], [2]) is None
    assert seen == {
        "store": store, "train_dataset": [1], "val_dataset": [2], "llm_proxy": proxy, "adapter": adapter,
        "initial_resources": {"main": MODEL}, "rate": 0.1, "seen": seen,
    }  # fmt: skip


def test_an_async_function_is_awaited() -> None:
    """An async function makes an algorithm whose ``run`` is awaited, and which can still be called."""

    @algo
    async def train(store: Any) -> Any:
        return store

    store = InMemoryLightningStore()
    train.set_store(store)
    assert train.is_async()

    async def run() -> Any:
        return await train.run()

    assert asyncio.run(run()) is store
    assert asyncio.run(train("as it was")) == "as it was"


def test_what_is_not_there_keeps_its_default_or_is_an_error() -> None:
    """An optional parameter without a value keeps its default; a store or adapter that is wanted and missing raises."""

    @algo
    def easy(train_dataset: Any = "none", adapter: Any = "no adapter", llm_proxy: Any = None) -> Any:
        return train_dataset, adapter, llm_proxy

    @algo
    def strict(adapter: Any) -> None: ...

    @algo
    def stored(store: Any) -> None: ...

    assert easy.run() == ("none", "no adapter", None)
    with pytest.raises(RuntimeError, match=r"no adapter; give one to the trainer: Trainer\(adapter=...\)"):
        strict.run()
    with pytest.raises(RuntimeError, match="no store; run it by a Trainer"):
        stored.run()


@pytest.mark.parametrize("name", ["train_dataset", "val_dataset"])
def test_a_dataset_that_is_not_taken_is_an_error(name: str) -> None:
    """A dataset for a function without the parameter is a TypeError with function, parameter, remedy; nothing runs."""
    ran: list[int] = []

    @algo
    def train(store: Any) -> None:
        ran.append(1)

    train.set_store(InMemoryLightningStore())
    with pytest.raises(TypeError, match=rf"train\(store\) takes no '{name}', .*add the parameter '{name}'"):
        train.run(**{name: [1, 2]})
    assert not ran


def positional(store: Any, /) -> None:
    """Take the store by place only."""


def unknown(store: Any, model: Any) -> None:
    """Take what nobody has."""


@pytest.mark.parametrize(
    ("function", "word"), [(positional, "'store' of the algorithm positional"), (unknown, "'model'")]
)
def test_a_parameter_that_nobody_fills_is_an_error(function: Callable[..., None], word: str) -> None:
    """What cannot be injected is refused when the function is decorated."""
    with pytest.raises(TypeError, match=word):
        algo(function)


def test_what_is_held_weakly_is_not_kept_alive() -> None:
    """An algorithm keeps neither adapter nor trainer alive, and says so when they are gone."""
    algorithm = Algorithm()
    algorithm.set_adapter(Adapter())
    algorithm.set_trainer(Adapter())
    gc.collect()
    with pytest.raises(RuntimeError, match="no adapter"):
        algorithm.get_adapter()
    with pytest.raises(RuntimeError, match="no trainer"):
        algorithm.get_trainer()
    assert algorithm.get_llm_proxy() is None
    with pytest.raises(NotImplementedError, match=r"Algorithm has to define run\(\)"):
        algorithm.run()


def test_verl_says_what_to_do_instead() -> None:
    """``VERL`` is refused with the way to train all the same."""
    with pytest.raises(MissingExtraError, match="adapter"):
        VERL()


@pytest.mark.parametrize(
    "wrong", [{"n_epochs": 0}, {"train_split": 2}, {"polling_interval": 0}, {"max_queue_length": 0}]
)
def test_baseline_checks_its_arguments(wrong: dict[str, Any]) -> None:
    """A number out of range is an error that names it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Baseline(**wrong)


async def finish_all(store: InMemoryLightningStore, seen: list[tuple[Any, str | None]], depths: list[int]) -> None:
    """Claim and finish whatever is queued, noting task, mode and how many waited."""
    while True:
        depths.append(len(await store.query_rollouts(status=["queuing"])))
        claimed = await store.dequeue_rollout()
        if claimed is None:
            await asyncio.sleep(0.005)
            continue
        seen.append((claimed.input, claimed.mode))
        await store.update_attempt(claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded")


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (["a", "b"], ["c"], [("a", "train"), ("b", "train"), ("c", "val")]),
        (["a", "b", "c", "d"], None, [("a", "train"), ("b", "train"), ("c", "val"), ("d", "val")]),
        (None, None, []),
    ],
)
async def test_baseline_runs_every_task_in_each_epoch(
    train: list[str] | None, val: list[str] | None, expected: list[tuple[str, str]]
) -> None:
    """``Baseline`` enqueues each task once for each epoch, at most so many ahead, and ends when all are finished."""
    store = InMemoryLightningStore()
    baseline = Baseline(n_epochs=2, max_queue_length=2, polling_interval=0.05, span_verbosity="key_values")
    baseline.set_store(store)
    baseline.set_initial_resources({"main": MODEL})
    assert baseline.is_async()
    seen: list[tuple[Any, str | None]] = []
    depths: list[int] = []
    worker = asyncio.create_task(finish_all(store, seen, depths))
    await asyncio.wait_for(baseline.run(train, val), 15)
    worker.cancel()
    assert seen == expected * 2
    assert max(depths, default=0) <= 2
    latest = await store.get_latest_resources()
    assert latest is not None
    assert latest.resources == {"main": MODEL}
