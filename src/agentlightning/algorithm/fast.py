"""Algorithms that are done soon: for trying an agent out, without learning anything."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, NamedTuple

from agentlightning._internal.context import home_rollout
from agentlightning.algorithm.base import Algorithm
from agentlightning.emitter import find_final_reward
from agentlightning.errors import MissingExtraError

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Dataset, Rollout, RolloutMode, TaskInput
    from agentlightning.types.tracer import Span

log = logging.getLogger("agentlightning.algorithm")

_FIRST_PAUSE_S = 0.02
_VERL = (
    "VERL",
    "algorithm.VERL",
    "read the training data with an adapter and hand it to verl, or write the loop as a function under @algo",
)


class FastAlgorithm(Algorithm):
    """Base of the algorithms that ``Trainer.dev`` takes."""


class _Job(NamedTuple):
    task: TaskInput
    mode: RolloutMode
    epoch: int


class Baseline(FastAlgorithm):
    """Runs every task once for each epoch and logs what came back; nothing is trained."""

    def __init__(
        self,
        *,
        n_epochs: int = 1,
        train_split: float = 0.5,
        polling_interval: float = 5.0,
        max_queue_length: int = 4,
        span_verbosity: Literal["keys", "key_values", "none"] = "keys",
    ) -> None:
        """Make it.

        Args:
            n_epochs: How often each task runs, at least 1.
            train_split: Share, 0 to 1, of the tasks that run in mode ``train`` where only one dataset is given; the
                others run in mode ``val``. With both datasets each has its own mode.
            polling_interval: Longest time in seconds between two looks at the store, above 0.
            max_queue_length: Rollouts that wait in the queue at most, at least 1.
            span_verbosity: What the log says of the attributes of each span: keys, keys and values, or nothing.

        Raises:
            ValueError: An argument is out of range.
        """
        ranges = {
            "n_epochs has to be at least 1": n_epochs >= 1,
            "train_split has to be from 0 to 1": 0 <= train_split <= 1,
            "polling_interval has to be above 0": polling_interval > 0,
            "max_queue_length has to be at least 1": max_queue_length >= 1,
        }
        wrong = [message for message, holds in ranges.items() if not holds]
        if wrong:
            raise ValueError("; ".join(wrong))
        self.n_epochs = n_epochs
        self.train_split = train_split
        self.polling_interval = polling_interval
        self.max_queue_length = max_queue_length
        self.span_verbosity: Literal["keys", "key_values", "none"] = span_verbosity

    async def run(
        self, train_dataset: Dataset[object] | None = None, val_dataset: Dataset[object] | None = None
    ) -> None:
        """Enqueue all tasks, a few ahead of the runners, and return when each of them is finished."""
        store = self.get_store()
        resources = self.get_initial_resources()
        resources_id = (await store.add_resources(resources)).resources_id if resources is not None else None
        home = home_rollout()
        metadata = {"parent_rollout_id": home.rollout_id} if home else None
        waiting: dict[str, _Job] = {}
        for job in self._jobs(train_dataset, val_dataset):
            await self._until(store, waiting, below=self.max_queue_length)
            rollout = await store.enqueue_rollout(job.task, job.mode, resources_id, metadata=metadata)
            waiting[rollout.rollout_id] = job
        await self._until(store, waiting, below=0)

    def _jobs(self, train: Dataset[object] | None, val: Dataset[object] | None) -> list[_Job]:
        train_tasks = [train[index] for index in range(len(train))] if train is not None else []
        val_tasks = [val[index] for index in range(len(val))] if val is not None else []
        if train is None or val is None:
            tasks = train_tasks + val_tasks
            cut = round(len(tasks) * self.train_split)
            train_tasks, val_tasks = tasks[:cut], tasks[cut:]
        modes: list[tuple[RolloutMode, list[object]]] = [("train", train_tasks), ("val", val_tasks)]
        return [
            _Job(task, mode, epoch) for epoch in range(1, self.n_epochs + 1) for mode, tasks in modes for task in tasks
        ]

    async def _until(self, store: LightningStore, waiting: dict[str, _Job], below: int) -> None:
        """Report what is finished, and return when fewer than *below* rollouts wait; 0 means: when all are finished."""
        pause = _FIRST_PAUSE_S
        while waiting:
            done = await self._report_finished(store, waiting)
            if below and len(waiting) < below:
                return
            if below and len(await self._queued(store, waiting)) < below:
                return
            pause = _FIRST_PAUSE_S if done else min(2 * pause, self.polling_interval)
            # Returns earlier when all of them are done.
            await store.wait_for_rollouts(rollout_ids=list(waiting)[:1], timeout=pause)

    @staticmethod
    async def _queued(store: LightningStore, waiting: dict[str, _Job]) -> list[Rollout]:
        return await store.query_rollouts(status=["queuing", "requeuing"], rollout_ids=list(waiting))

    async def _report_finished(self, store: LightningStore, waiting: dict[str, _Job]) -> bool:
        finished = await store.wait_for_rollouts(rollout_ids=list(waiting), timeout=0)
        for rollout in finished:
            job = waiting.pop(rollout.rollout_id)
            spans = await store.query_spans(rollout.rollout_id, "latest")
            reward = find_final_reward(spans)
            log.info(
                "rollout %s (epoch %d, %s): %s, %d spans, reward %s",
                rollout.rollout_id, job.epoch, job.mode, rollout.status, len(spans), reward,
            )  # fmt: skip
            self._log_spans(spans)
        return bool(finished)

    def _log_spans(self, spans: list[Span]) -> None:
        if self.span_verbosity == "none":
            return
        for span in spans:
            keys = self.span_verbosity == "keys"
            log.info("  span %s %s: %s", span.span_id, span.name, [*span.attributes] if keys else span.attributes)


def VERL(*args: object, **kwargs: object) -> Algorithm:  # noqa: N802 - name and arguments of the 0.2 line
    """Refuse: verl is not bound to this release.

    Raises:
        MissingExtraError: Always; the message says what to do instead.
    """
    _ = args, kwargs
    raise MissingExtraError(*_VERL)
