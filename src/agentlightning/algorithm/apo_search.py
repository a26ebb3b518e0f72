"""The search of gepa over rollouts: gepa proposes and selects on a thread, the event loop runs what it wants tried."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from agentlightning._internal.answer import run_in_thread
from agentlightning.algorithm.apo_reflection import record
from agentlightning.algorithm.apo_result import APOResult, APOStep
from agentlightning.algorithm.apo_rollout import StopSearchError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from gepa.core.adapter import EvaluationBatch

    from agentlightning.algorithm.apo_reflection import Proposer
    from agentlightning.algorithm.apo_result import StopReason
    from agentlightning.algorithm.apo_rollout import Candidate, Case, Trial, Trials

log = logging.getLogger("agentlightning.algorithm")

R = TypeVar("R")


class _State(Protocol):
    """What is read of gepa's state, which it calls ``GEPAState``."""

    program_candidates: list[Candidate]
    program_full_scores_val_set: list[float]


@dataclass(frozen=True)
class APOBudget:
    """When a search ends: at whatever comes first. Immutable.

    Raises:
        ValueError: A number is out of range.
    """

    max_rollouts: int = 500
    """Rollouts enqueued at most, at least 1. An iteration that might pass the bound is not begun."""
    max_iterations: int | None = None
    """Proposals at most, 0 or more; None: no bound."""
    max_seconds: float | None = None
    """Wall time, above 0. Rollouts that run when it is over are not waited for."""
    target_reward: float | None = 1.0
    """Ends the search once the mean reward on the validation tasks is so high. No better prompt is looked for where
    every rollout of a minibatch reaches it. None: no such thing as good enough."""
    patience: int | None = None
    """Ends the search after so many iterations in a row without a better prompt, at least 1."""
    rollout_timeout_s: float | None = None
    """Longest time of one rollout's attempt in seconds, above 0; then it failed. None: no bound of its own."""

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        ranges = {
            "max_rollouts has to be at least 1": self.max_rollouts >= 1,
            "max_iterations has to be at least 0": self.max_iterations is None or self.max_iterations >= 0,
            "max_seconds has to be above 0": self.max_seconds is None or self.max_seconds > 0,
            "patience has to be at least 1": self.patience is None or self.patience >= 1,
            "rollout_timeout_s has to be above 0": self.rollout_timeout_s is None or self.rollout_timeout_s > 0,
        }
        wrong = [message for message, holds in ranges.items() if not holds]
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True)
class SearchPlan:
    """What a search works on."""

    first: Candidate
    train: list[Case]
    val: list[Case]
    budget: APOBudget
    minibatch_size: int
    seed: int


class Search:
    """One search. ``run`` and ``result`` belong to the event loop, the rest to the thread on which gepa runs.

    It is the adapter that gepa wants, its condition to stop, and its logger.
    """

    propose_new_texts = None  # gepa asks for it: the proposer is given to it by itself

    def __init__(self, plan: SearchPlan, trials: Trials, proposer: Proposer) -> None:
        """Prepare a search on the running event loop."""
        self._plan = plan
        self._trials = trials
        self._proposer = proposer
        self._loop = asyncio.get_running_loop()
        self._steps: list[APOStep] = []
        self._candidate_count = 0
        self._reason: StopReason = "interrupted"
        self._is_over = False

    async def run(self) -> None:
        """Search until the budget is spent.

        Raises:
            ReflectionError: The reflection model failed too often in a row.
            RuntimeError: The first evaluation brought no reward.
            StoreError: The store cannot be used.
            asyncio.CancelledError: It was cancelled; the thread ends when gepa wants something next.
        """
        try:
            (await run_in_thread(self._search, "agentlightning-apo")).get()
        except StopSearchError as stop:
            self._reason = stop.reason
        except Exception:
            self._reason = "error"
            raise
        finally:
            self._is_over = True

    def result(self, resources_id: str | None) -> APOResult:
        """Return what was found until now."""
        counts = self._trials.counts
        return APOResult(
            prompts=dict(self._trials.best),
            resources_id=resources_id,
            steps=tuple(self._steps),
            stop_reason=self._reason,
            rollout_count=counts.rollouts,
            failed_count=counts.failed,
            unrewarded_count=counts.unrewarded,
            refused_proposal_count=self._proposer.refused_count,
            reflection_error_count=self._proposer.error_count,
        )

    def _search(self) -> None:
        plan, target = self._plan, self._plan.budget.target_reward
        # Optional, and takes most of a second. By name: its types are not complete.
        importlib.import_module("gepa").optimize(
            seed_candidate=plan.first,
            trainset=plan.train,
            valset=plan.val,
            adapter=self,
            custom_candidate_proposer=self._proposer,
            reflection_minibatch_size=plan.minibatch_size,
            skip_perfect_score=target is not None,
            perfect_score=target,
            stop_callbacks=self._stop,
            logger=self,
            track_best_outputs=False,
            raise_on_exception=True,
            seed=plan.seed,
        )

    def evaluate(
        self,
        batch: list[Case],
        candidate: Candidate,
        capture_traces: bool = False,  # noqa: FBT001, FBT002 - of gepa
    ) -> EvaluationBatch[Trial, str]:
        """Try *candidate* out on *batch*."""
        from gepa.core.adapter import EvaluationBatch  # noqa: PLC0415 - optional

        trials = self._await(self._trials.evaluate(batch, candidate, with_traces=capture_traces))
        return EvaluationBatch(
            outputs=[trial.rollout_id for trial in trials],
            scores=[trial.score for trial in trials],
            trajectories=trials if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: Candidate, eval_batch: EvaluationBatch[Trial, str], components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, object]]]:
        """Return what the reflection model is shown of each prompt."""
        _ = candidate
        records = [record(trial) for trial in eval_batch.trajectories or ()]
        return dict.fromkeys(components_to_update, records)

    def log(self, message: str) -> None:
        """Drop what gepa says: it holds prompts and tasks, which are kept out of logs."""

    def _await(self, work: Coroutine[None, None, R]) -> R:
        if self._is_over:
            work.close()
            raise StopSearchError(self._reason)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self, state: _State) -> bool:
        """Note what the iteration before brought, and tell whether to end; gepa calls it before each iteration."""
        self._note(state.program_candidates, state.program_full_scores_val_set)
        self._await(self._trials.mark_best())
        if self._proposer.fatal is not None:
            raise self._proposer.fatal
        reason = self._bound()
        if reason is not None:
            self._reason = reason
        return reason is not None

    def _note(self, candidates: list[Candidate], rewards: Sequence[float]) -> None:
        best = self._steps[-1].best_reward if self._steps else None
        reward = None
        for place in range(self._candidate_count, len(candidates)):
            reward = rewards[place]
            if best is None or reward > best:
                best = reward
                self._trials.best = dict(candidates[place])
        self._candidate_count = len(candidates)
        step = APOStep(
            iteration=len(self._steps),
            reward=reward,
            best_reward=best or 0.0,
            rollout_count=self._trials.counts.rollouts,
            elapsed_s=time.monotonic() - self._trials.started,
        )
        self._steps.append(step)
        log.info(
            "iteration %d: reward %s on %d tasks, best %g, %d rollouts, %.1f s",
            step.iteration, "-" if reward is None else f"{reward:g}", len(self._plan.val), step.best_reward,
            step.rollout_count, step.elapsed_s,
        )  # fmt: skip

    def _bound(self) -> StopReason | None:
        """Return which bound of the budget is come to."""
        budget, step, left_s = self._plan.budget, self._steps[-1], self._trials.left_s()
        most = 2 * self._plan.minibatch_size + len(self._plan.val)
        idle = sum(earlier.best_reward == step.best_reward for earlier in self._steps) - 1
        bounds: dict[StopReason, bool] = {
            "target_reward": budget.target_reward is not None and step.best_reward >= budget.target_reward,
            "iterations": budget.max_iterations is not None and step.iteration >= budget.max_iterations,
            "patience": budget.patience is not None and idle >= budget.patience,
            "seconds": left_s is not None and left_s <= 0,
            "rollouts": step.rollout_count + most > budget.max_rollouts,
        }
        return next((reason for reason, is_reached in bounds.items() if is_reached), None)
