"""Candidates of a search, tried out as rollouts of a store."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from agentlightning.adapter.messages import TraceToMessages
from agentlightning.emitter import find_final_reward
from agentlightning.errors import TransitionError, UnknownIdError
from agentlightning.semconv import SpanAttributeNames, SpanNames
from agentlightning.types.core import RolloutConfig
from agentlightning.types.resources import PromptTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.adapter.messages import ChatMessage, OpenAIMessages
    from agentlightning.algorithm.apo_result import StopReason
    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Rollout, RolloutMode, TaskInput
    from agentlightning.types.resources import NamedResources
    from agentlightning.types.tracer import Span

log = logging.getLogger("agentlightning.algorithm")

MAX_TEXT_CHARS = 4_000
"""Longest conversation, task or note of one rollout that the reflection model is shown."""

Candidate = dict[str, str]
"""Template of each prompt by the name of its resource."""


class StopSearchError(Exception):
    """A bound of the budget was come to in the middle of an evaluation."""

    def __init__(self, reason: StopReason) -> None:
        """Stop for *reason*."""
        super().__init__(reason)
        self.reason: StopReason = reason


class Case(NamedTuple):
    """A task, and what it is for."""

    task: TaskInput
    mode: RolloutMode


class Trial(NamedTuple):
    """What one rollout came to."""

    case: Case
    rollout_id: str
    status: str
    reward: float | None
    """None where it failed, or has no finite reward."""
    score: float
    """The reward, or what stands in for it."""
    conversation: str = ""
    """Its model calls as text; only where it was asked for."""
    notes: tuple[str, ...] = ()
    """Messages and exceptions that it emitted; only where they were asked for."""


@dataclass(frozen=True)
class TrialOptions:
    """How rollouts are made and counted."""

    failure_reward: float
    """Stands in for the reward of a rollout that failed or has none."""
    max_seconds: float | None
    """Longest time of the whole search."""
    rollout_timeout_s: float | None
    """Longest time of one attempt."""


@dataclass
class Counts:
    """What happened until now."""

    rollouts: int = 0
    failed: int = 0
    unrewarded: int = 0


@dataclass
class Trials:
    """Posts candidates as resources and tries them out. Its methods belong to the event loop of the algorithm."""

    store: LightningStore
    resources: NamedResources
    """What the agent gets besides the prompts of the candidate."""
    options: TrialOptions
    best: Candidate
    """The candidate that shall be the latest of the store whenever nothing is tried out; set by the search."""
    counts: Counts = field(default_factory=Counts)
    started: float = field(default_factory=time.monotonic)
    _posted: dict[tuple[str, ...], str] = field(default_factory=dict[tuple[str, ...], str])
    _latest: str | None = None
    _waiting: list[str] = field(default_factory=list[str])

    async def evaluate(self, cases: Sequence[Case], candidate: Candidate, *, with_traces: bool) -> list[Trial]:
        """Run every case with *candidate* and return what came back, in the order of *cases*.

        Raises:
            StopSearchError: The time of the search is over.
            RuntimeError: No rollout of the first evaluation has a reward, so there is nothing to search by.
            StoreError: The store cannot be used.
        """
        resources_id = await self._post(candidate)
        made = await self.store.enqueue_rollouts(
            [case.task for case in cases],
            cases[0].mode,
            resources_id,
            RolloutConfig(timeout_seconds=self.options.rollout_timeout_s),
        )
        is_first = self.counts.rollouts == 0
        self.counts.rollouts += len(made)
        self._waiting = [rollout.rollout_id for rollout in made]
        ended = await self.store.wait_for_rollouts(rollout_ids=self._waiting, timeout=self.left_s())
        if len(ended) < len(made):
            reason: StopReason = "seconds"
            raise StopSearchError(reason)
        self._waiting = []
        trials = [
            await self._read(case, rollout, with_traces=with_traces) for case, rollout in zip(cases, ended, strict=True)
        ]
        self._report(trials, is_first=is_first)
        return trials

    def left_s(self) -> float | None:
        """Return how many seconds the search may go on, None for ever."""
        most = self.options.max_seconds
        return None if most is None else max(0.0, self.started + most - time.monotonic())

    async def settle(self) -> None:
        """Make the best candidate the latest of the store, and cancel what is still queued. May be called again."""
        await self.mark_best()
        for rollout_id in self._waiting:
            rollout = await self.store.get_rollout_by_id(rollout_id)
            if rollout is not None and rollout.status in ("queuing", "requeuing"):
                await self._cancel(rollout_id)
        self._waiting = []

    @property
    def best_id(self) -> str | None:
        """Resources id of the best candidate, None while it is not posted."""
        return self._posted.get(_key(self.best))

    async def mark_best(self) -> None:
        """Make the best candidate the latest of the store."""
        best = self.best_id
        if best is not None and best != self._latest:
            await self.store.update_resources(best, self._with(self.best))
            self._latest = best

    async def _cancel(self, rollout_id: str) -> None:
        try:
            await self.store.update_rollout(rollout_id, status="cancelled")
        except (TransitionError, UnknownIdError):  # it ended, or was deleted, meanwhile
            log.debug("rollout %s needs no cancelling any more", rollout_id)

    async def _post(self, candidate: Candidate) -> str:
        key = _key(candidate)
        if key not in self._posted:
            self._latest = None  # not known while this one is under way
            self._posted[key] = (await self.store.add_resources(self._with(candidate))).resources_id
            self._latest = self._posted[key]
        return self._posted[key]

    def _with(self, candidate: Candidate) -> NamedResources:
        found = dict(self.resources)
        for name, text in candidate.items():
            old = found[name]
            engine = old.engine if isinstance(old, PromptTemplate) else "f-string"
            found[name] = PromptTemplate(template=text, engine=engine)
        return found

    async def _read(self, case: Case, rollout: Rollout, *, with_traces: bool) -> Trial:
        spans = await self.store.query_spans(rollout.rollout_id, "latest")
        reward = find_final_reward(spans)
        if rollout.status != "succeeded":
            self.counts.failed += 1
            reward = None
        elif reward is None or not math.isfinite(reward):
            self.counts.unrewarded += 1
            reward = None
        score = self.options.failure_reward if reward is None else reward
        trial = Trial(case, rollout.rollout_id, rollout.status, reward, score)
        if with_traces:
            trial = trial._replace(conversation=conversation(spans), notes=notes(spans))
        return trial

    def _report(self, trials: list[Trial], *, is_first: bool) -> None:
        failed = [trial.rollout_id for trial in trials if trial.status != "succeeded"]
        unrewarded = [trial.rollout_id for trial in trials if trial.status == "succeeded" and trial.reward is None]
        score = self.options.failure_reward
        if failed:
            log.warning("%d of %d rollouts failed and count as %g: %s", len(failed), len(trials), score, failed)
        if unrewarded:
            log.warning(
                "%d of %d rollouts have no finite reward and count as %g: %s",
                len(unrewarded), len(trials), score, unrewarded,
            )  # fmt: skip
        if is_first and len(failed) + len(unrewarded) == len(trials):
            msg = (
                f"none of the first {len(trials)} rollouts has a reward ({len(failed)} failed, "
                f"{len(unrewarded)} without one), so no prompt can be better than another; "
                f"see agl show {trials[0].rollout_id}"
            )
            raise RuntimeError(msg)


def _key(candidate: Candidate) -> tuple[str, ...]:
    return tuple(text for item in sorted(candidate.items()) for text in item)


def conversation(spans: list[Span]) -> str:
    """Return the model calls among *spans* as text; a call that a later one goes on from is not repeated."""
    calls = TraceToMessages().adapt(spans)
    kept = [
        call for place, call in enumerate(calls) if not any(_continues(later, call) for later in calls[place + 1 :])
    ]
    return cut("\n\n".join("\n".join(map(_line, call["messages"])) for call in kept))


def notes(spans: list[Span]) -> tuple[str, ...]:
    """Return messages and exceptions that were emitted, in the order of *spans*."""
    found: list[str] = []
    for span in spans:
        if span.name == SpanNames.MESSAGE:
            found.append(cut(str(span.attributes.get(SpanAttributeNames.MESSAGE.value, ""))))
        elif span.name == SpanNames.EXCEPTION:
            kind, text = (span.attributes.get(f"exception.{name}", "") for name in ("type", "message"))
            found.append(cut(f"{kind}: {text}"))
    return tuple(found)


def cut(text: str) -> str:
    """Return *text*, its middle left out where it is longer than ``MAX_TEXT_CHARS``."""
    half = MAX_TEXT_CHARS // 2
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:half]}\n[...]\n{text[-half:]}"


def _continues(later: OpenAIMessages, call: OpenAIMessages) -> bool:
    return later["messages"][: len(call["messages"])] == call["messages"]


def _line(message: ChatMessage) -> str:
    content = message.get("content")
    shown = content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    asked = "".join(f" [calls {call['name']}({call['arguments']})]" for call in calls)
    return f"{message['role']}: {shown}{asked}"
