"""Pairs of conversations of one task, the better and the worse: ``dpo``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from agentlightning.adapter.dataset import coverage as why
from agentlightning.adapter.dataset.call import Selection, calls_of, final_reward, oddities
from agentlightning.adapter.dataset.row import longest, with_messages
from agentlightning.adapter.tree import TraceTree
from agentlightning.view.transcript import common_beginning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.adapter.dataset.call import Recorded
    from agentlightning.adapter.dataset.coverage import Coverage
    from agentlightning.adapter.messages import ChatMessage


class _Candidate(NamedTuple):
    """What is written of a conversation: the spans of thousands of rollouts are not kept until the pairs come."""

    rollout_id: str
    messages: list[ChatMessage]
    tools: list[dict[str, object]]
    reward: float | None
    oddities: list[str]


class Preferences:
    """Gathers conversations by task; the pairs come when all rollouts were seen.

    A task is the input of its rollout. What is compared is the last conversation of each rollout at its longest, by
    the final reward of the rollout. The best and the worst of a task make one pair; ``prompt`` is what they have in
    common at their beginning, ``chosen`` and ``rejected`` what each adds.
    """

    def __init__(self, selection: Selection, coverage: Coverage) -> None:
        """Choose by *selection*, count in *coverage*."""
        self._selection = selection
        self._coverage = coverage
        self._tasks: dict[str, list[_Candidate]] = {}

    def add(self, recorded: Recorded) -> None:
        """Take in a rollout."""
        calls = with_messages(calls_of(recorded, self._selection, self._coverage), self._coverage)
        found = longest(calls, self._coverage)
        if not found:
            return
        if len(found) > 1:
            self._coverage.left_out[why.NO_COUNTERPART] += len(found) - 1
        call = found[-1]
        call.reward = final_reward(TraceTree(span.span_id, span) for span in recorded.spans)
        candidate = _Candidate(
            recorded.rollout.rollout_id, call.prompt + call.completion, call.tools, call.reward, oddities(call)
        )
        self._tasks.setdefault(_task(recorded.rollout.input), []).append(candidate)

    def pairs(self) -> Iterator[dict[str, object]]:
        """Yield the pair of each task that has two different rewards; the rest is counted."""
        for candidates in self._tasks.values():
            valued = sorted(
                (item for item in candidates if item.reward is not None), key=lambda item: item.reward or 0.0
            )
            pair = (valued[0], valued[-1]) if valued and valued[0].reward != valued[-1].reward else ()
            self._coverage.left_out[why.NO_COUNTERPART] += len(candidates) - len(pair)
            if pair:
                yield self._pair(*pair)

    def _pair(self, worse: _Candidate, better: _Candidate) -> dict[str, object]:
        for item in (better, worse):
            self._coverage.exported += 1
            self._coverage.noted.update(item.oddities)
        shared = common_beginning(better.messages[:-1], worse.messages[:-1])
        line: dict[str, object] = {
            "prompt": better.messages[:shared],
            "chosen": better.messages[shared:],
            "rejected": worse.messages[shared:],
            "chosen_reward": better.reward,
            "rejected_reward": worse.reward,
            "chosen_rollout_id": better.rollout_id,
            "rejected_rollout_id": worse.rollout_id,
        }
        if better.tools:
            line["tools"] = better.tools
        return line


def _task(given: object) -> str:
    return json.dumps(given, sort_keys=True, default=repr)
