"""What a search for prompts found, and its picture."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentlightning.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PLOT = ("plot", "APOResult.plot()")

StopReason = Literal["rollouts", "iterations", "seconds", "target_reward", "patience", "interrupted", "error"]
"""Why a search ended: which bound of its budget it came to, Ctrl+C or the end of the runners, or an error."""


@dataclass(frozen=True)
class APOStep:
    """What was known after one iteration; number 0 is the evaluation of the prompt to begin with."""

    iteration: int
    """From 0."""
    reward: float | None
    """Mean reward of the iteration's candidate on all validation tasks; None where nothing came so far: no usable
    proposal, or one that was no better than its parent on a minibatch of training tasks."""
    best_reward: float
    """Highest such mean until here."""
    rollout_count: int
    """Rollouts enqueued until here."""
    elapsed_s: float
    """Seconds since the search began."""


@dataclass(frozen=True)
class APOResult:
    """What a search found, and what it cost. Immutable."""

    prompts: Mapping[str, str]
    """Best template of each prompt by the name of its resource."""
    resources_id: str | None
    """Snapshot of resources with these prompts, the latest of the store; None when nothing was posted yet."""
    steps: tuple[APOStep, ...]
    """In their order; empty when the search ended during its first evaluation."""
    stop_reason: StopReason
    rollout_count: int
    """Rollouts enqueued; each is one evaluation of a prompt on a task, gepa's "metric call"."""
    failed_count: int
    """Rollouts among them that failed or were cancelled; each counts as ``failure_reward``."""
    unrewarded_count: int
    """Rollouts that succeeded without a reward, or with one that is not finite; each counts as ``failure_reward``."""
    refused_proposal_count: int
    """Answers of the reflection model that are no usable template: a hole is missing or new, or nothing changed."""
    reflection_error_count: int
    """Calls of the reflection model that raised."""

    @property
    def reward(self) -> float | None:
        """Mean reward of the best prompts on the validation tasks; None before the first evaluation ended."""
        return self.steps[-1].best_reward if self.steps else None

    @property
    def first_reward(self) -> float | None:
        """The same of the prompts to begin with."""
        return self.steps[0].best_reward if self.steps else None

    def plot(self, path: str | Path) -> None:
        """Write a picture of the reward over the iterations to *path*, a PNG where the name ends so.

        Raises:
            MissingExtraError: matplotlib is not installed (extra ``plot``).
            ValueError: There is no step to draw.
            OSError: The file cannot be written.
        """
        if not self.steps:
            msg = "the search ended before its first evaluation, there is nothing to draw"
            raise ValueError(msg)
        try:
            # By name: the types of matplotlib are not complete.
            pictures = importlib.import_module("matplotlib.figure")
            backend = importlib.import_module("matplotlib.backends.backend_agg")
            ticker = importlib.import_module("matplotlib.ticker")
        except ImportError:
            raise MissingExtraError(*_PLOT) from None
        figure = pictures.Figure(figsize=(8, 4.5), layout="constrained")
        backend.FigureCanvasAgg(figure)  # no window, whatever the machine's default is
        axes = figure.add_subplot()
        numbers = [step.iteration for step in self.steps]
        axes.step(numbers, [step.best_reward for step in self.steps], where="post", label="best so far")
        tried = [(step.iteration, step.reward) for step in self.steps if step.reward is not None]
        axes.plot(*zip(*tried, strict=True), "o", color="tab:orange", label="candidate on all validation tasks")
        axes.set(xlabel="iteration", ylabel="mean reward on validation tasks")
        axes.set_title(f"{self.rollout_count} rollouts, ended by {self.stop_reason}")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2)
        figure.savefig(path, dpi=120)
