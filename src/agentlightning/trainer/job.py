"""What a strategy runs for a trainer: the algorithm with its data, the runner with its agent. Both can be pickled."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning._internal.answer import run_in_thread
from agentlightning._internal.context import home_rollout, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentlightning.adapter.base import Adapter
    from agentlightning.algorithm.base import Algorithm
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.litagent.litagent import LitAgent
    from agentlightning.runner.base import Runner
    from agentlightning.store.base import LightningStore
    from agentlightning.store.request import NewRollouts
    from agentlightning.types.core import Dataset, Hook
    from agentlightning.types.protocol import ModelProxy
    from agentlightning.types.resources import NamedResources


@dataclass(frozen=True)
class RunnerJob:
    """A runner and its agent; each worker makes a runner of its own from it."""

    runner: Runner[Any]
    agent: LitAgent[Any]
    hooks: Sequence[Hook]

    async def __call__(self, store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        """Run one worker until *event* is set or the runner has done what it may."""
        runner = self.runner.for_worker()
        for hook in self.hooks:
            hook.init_worker(worker_id)
        with runner.run_context(agent=self.agent, store=store, hooks=self.hooks, worker_id=worker_id):
            await runner.iter(event=event)
        for hook in self.hooks:
            hook.teardown_worker(worker_id)


@dataclass(frozen=True)
class AlgorithmJob:
    """An algorithm, its data, and what it is given."""

    algorithm: Algorithm
    train_dataset: Dataset[object] | None
    val_dataset: Dataset[object] | None
    initial_resources: NamedResources | None
    adapter: Adapter[Any, Any]
    llm_proxy: ModelProxy | None

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        """Run the algorithm to its end; a plain one on a thread of its own, where it may run event loops."""
        _ = event  # the strategy cancels what does not end
        algorithm = self.algorithm
        algorithm.set_store(_inside_what_runs(store))
        algorithm.set_adapter(self.adapter)
        if self.llm_proxy is not None:
            algorithm.set_llm_proxy(self.llm_proxy)
        if self.initial_resources is not None:
            algorithm.set_initial_resources(self.initial_resources)
        if algorithm.is_async():
            result = algorithm.run(self.train_dataset, self.val_dataset)
        else:
            work = functools.partial(algorithm.run, self.train_dataset, self.val_dataset)
            result = (await run_in_thread(work, "agentlightning-agent")).get()
        if inspect.isawaitable(result):
            await result


def _inside_what_runs(store: LightningStore) -> LightningStore:
    """Return a handle on *store* whose new rollouts name the one that this program is, where it is one: ``agl run``.

    Only the algorithm's own handle does so: a store that is served makes rollouts for other programs as well.
    """
    outer = running.get() or home_rollout()
    if outer is None:
        return store
    handle = store.with_project(store.project)
    for name in ("add_started", "add_queued"):
        setattr(handle, name, _with_parent(getattr(handle, name), outer.rollout_id))
    return handle


def _with_parent(
    add: Callable[[NewRollouts], Awaitable[object]], rollout_id: str
) -> Callable[[NewRollouts], Awaitable[object]]:
    @functools.wraps(add)
    async def added(new: NewRollouts) -> object:
        """Add rollouts whose metadata name their parent, unless the caller named one."""
        named = {"parent_rollout_id": rollout_id, **(new.metadata or {})}
        return await add(dataclasses.replace(new, metadata=named))

    return added
