"""``APO``: automatic prompt optimisation, the search of gepa over rollouts of the store."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import logging
from typing import TYPE_CHECKING

from agentlightning.algorithm.apo_reflection import Proposer, asked_of, holes
from agentlightning.algorithm.apo_rollout import Case, TrialOptions, Trials
from agentlightning.algorithm.apo_search import APOBudget, Search, SearchPlan
from agentlightning.algorithm.base import Algorithm
from agentlightning.errors import MissingExtraError
from agentlightning.types.resources import LLM, PromptTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentlightning.algorithm.apo_result import APOResult
    from agentlightning.algorithm.apo_rollout import Candidate
    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Dataset
    from agentlightning.types.resources import NamedResources

log = logging.getLogger("agentlightning.algorithm")

_EXTRA = ("apo", "APO")
_SETTLE_TRIES = 4


class APO(Algorithm):
    """Searches for the prompt templates with which an agent earns the highest reward.

    Each candidate is posted as resources and tried out by rollouts; what they were rewarded with, and what was said in
    them, is shown to a reflection model, which writes the next candidate. gepa (extra ``apo``) decides which candidate
    to go on from. Train tasks are what is learnt from, validation tasks what candidates are compared by.

    The best candidate is the latest resources of the store when the search ends, also at Ctrl+C and after an error;
    while it runs, between two evaluations. The search goes on from there when the next one begins with these. Needs no
    network beyond the models. One object runs one search at a time, on the event loop that awaits ``run``; the
    reflection model is called on a thread of its own, one call at a time.
    """

    result: APOResult | None = None
    """What the last search found; also after Ctrl+C. None where none ran in this process."""

    def __init__(
        self,
        reflection: LLM | Callable[[str], str] | None = None,
        *,
        budget: APOBudget | None = None,
        prompt_names: Sequence[str] | None = None,
        minibatch_size: int = 3,
        failure_reward: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Make it.

        Args:
            reflection: Writes prompts: a model (needs the extra ``openai``), or a function from a text to its answer,
                with the new prompt between three backticks. None: the trainer's ``llm_proxy``, else the first ``LLM``
                among the resources.
            budget: When to end; default ``APOBudget()``.
            prompt_names: Resources to improve, each a ``PromptTemplate``; None: all of them.
            minibatch_size: Train tasks that a candidate is tried on before it gets to all validation tasks, at least 1.
            failure_reward: Stands in for the reward of a rollout that failed or has none.
            seed: Of the random choices of the search.

        Raises:
            MissingExtraError: gepa is not installed.
            ValueError: An argument is out of range.
            TypeError: *reflection* cannot be asked.
        """
        if importlib.util.find_spec("gepa") is None:
            raise MissingExtraError(*_EXTRA)
        if minibatch_size < 1:
            msg = "minibatch_size has to be at least 1"
            raise ValueError(msg)
        if prompt_names is not None and not prompt_names:
            msg = "prompt_names is empty; name a resource, or leave it out to improve every prompt"
            raise ValueError(msg)
        if reflection is not None:
            _check_askable(reflection)
        self.reflection = reflection
        self.budget = budget or APOBudget()
        self.prompt_names = None if prompt_names is None else tuple(prompt_names)
        self.minibatch_size = minibatch_size
        self.failure_reward = failure_reward
        self.seed = seed

    def check_datasets(self, train_dataset: Dataset[object] | None, val_dataset: Dataset[object] | None) -> None:
        """Refuse to search without tasks, or with too few rollouts to evaluate anything.

        Raises:
            ValueError: There is no train task, no validation task, or more of these than ``max_rollouts``.
        """
        if train_dataset is None or not len(train_dataset):
            msg = "APO needs tasks to learn from: fit(agent, train_dataset, val_dataset=...)"
            raise ValueError(msg)
        compared = train_dataset if val_dataset is None else val_dataset
        if not len(compared):
            msg = "val_dataset is empty; leave it out to compare prompts on the train tasks"
            raise ValueError(msg)
        if len(compared) > self.budget.max_rollouts:
            msg = (
                f"one evaluation takes {len(compared)} rollouts, and max_rollouts is {self.budget.max_rollouts}; "
                "allow more, or give fewer validation tasks"
            )
            raise ValueError(msg)

    async def run(
        self, train_dataset: Dataset[object] | None = None, val_dataset: Dataset[object] | None = None
    ) -> None:
        """Search until the budget is spent; without *val_dataset* prompts are compared on the train tasks.

        Raises:
            ValueError: There are no tasks, prompts or reflection model; the message says what to give.
            ReflectionError: The reflection model failed three times in a row.
            MissingExtraError: The reflection model is an ``LLM``, and ``openai`` is not installed.
            RuntimeError: No rollout of the first evaluation has a reward.
            StoreError: The store cannot be used.
        """
        self.check_datasets(train_dataset, val_dataset)
        self.result = None
        store = self.get_store()
        resources = await self._resources(store)
        plan = self._plan(resources, train_dataset, val_dataset)
        proposer = Proposer(asked_of(self._reflection_model(resources)), resources)
        options = TrialOptions(self.failure_reward, self.budget.max_seconds, self.budget.rollout_timeout_s)
        trials = Trials(store, resources, options, best=dict(plan.first))
        search = Search(plan, trials, proposer)
        try:
            await search.run()
        finally:
            try:
                await _settle(trials)
            finally:
                self.result = search.result(trials.best_id)
                log.info("the search ended by %s after %d rollouts", self.result.stop_reason, self.result.rollout_count)

    async def _resources(self, store: LightningStore) -> NamedResources:
        """Return what to begin with: what was given, and the latest of the store where no prompt was."""
        given = self.get_initial_resources() or {}
        if any(isinstance(resource, PromptTemplate) for resource in given.values()):
            return given
        latest = await store.get_latest_resources()
        return given if latest is None else {**latest.resources, **given}

    def _plan(
        self, resources: NamedResources, train: Dataset[object] | None, val: Dataset[object] | None
    ) -> SearchPlan:
        train_tasks = [] if train is None else [train[place] for place in range(len(train))]
        val_tasks = train_tasks if val is None else [val[place] for place in range(len(val))]
        return SearchPlan(
            first=self._prompts(resources),
            train=[Case(task, "train") for task in train_tasks],
            val=[Case(task, "val") for task in val_tasks],
            budget=self.budget,
            minibatch_size=self.minibatch_size,
            seed=self.seed,
        )

    def _prompts(self, resources: NamedResources) -> Candidate:
        found = {name: item for name, item in resources.items() if isinstance(item, PromptTemplate)}
        wanted = tuple(found) if self.prompt_names is None else self.prompt_names
        missing = [name for name in wanted if name not in found]
        if missing or not wanted:
            what = ", ".join(missing) or "any"
            msg = (
                f"there is no PromptTemplate {what} among the resources ({', '.join(resources) or 'none'}); give one: "
                "Trainer(initial_resources={'prompt': PromptTemplate(...)})"
            )
            raise ValueError(msg)
        for name in wanted:
            try:
                holes(found[name])
            except ValueError as error:
                msg = f"the prompt {name} to begin with cannot be used: {error}"
                raise ValueError(msg) from None
        return {name: found[name].template for name in wanted}

    def _reflection_model(self, resources: NamedResources) -> LLM | Callable[[str], str]:
        if self.reflection is not None:
            return self.reflection
        proxy = self.get_llm_proxy()
        found = next((item for item in resources.values() if isinstance(item, LLM)), None)
        if proxy is not None:
            return proxy.as_resource()
        if found is None:
            msg = "APO has no model that writes prompts: APO(reflection=...), or give an LLM among the resources"
            raise ValueError(msg)
        return found


def _check_askable(reflection: object) -> None:
    if not isinstance(reflection, LLM) and (not callable(reflection) or inspect.iscoroutinefunction(reflection)):
        what = "async" if callable(reflection) else type(reflection).__qualname__
        msg = f"reflection is {what}; use an LLM, or a plain function from a text to its answer"
        raise TypeError(msg)


async def _settle(trials: Trials) -> None:
    """Settle *trials*, also where the task is cancelled while it does so.

    After Ctrl+C the loop still runs what a cancelled task awaits, but both the strategy and ``asyncio.run`` cancel it.
    """
    cancelled: asyncio.CancelledError | None = None
    for _ in range(_SETTLE_TRIES):
        try:
            await trials.settle()
            break
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
