"""Formats with a line for each call or conversation: ``triplets messages sft trl``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from agentlightning.adapter.dataset import coverage as why
from agentlightning.adapter.dataset.call import Call, Recorded, Selection, calls_of, note_exported
from agentlightning.adapter.triplet import triplet_of
from agentlightning.view.transcript import turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentlightning.adapter.dataset.coverage import Coverage

Line = dict[str, object]


def triplets(recorded: Recorded, selection: Selection, coverage: Coverage) -> Iterator[Line]:
    """Yield the calls whose token ids are known, in the order in which they started."""
    place = 0
    for call in calls_of(recorded, selection, coverage):
        if not _has_ids(call):
            coverage.left_out[why.NO_TOKENS] += 1
            continue
        note_exported(call, coverage)
        made = triplet_of(call.span, call.tokens, call.agent)
        yield {
            "rollout_id": call.recorded.rollout.rollout_id,
            "attempt_id": call.span.attempt_id,
            "index": place,
            **made.model_dump(),
            "reward": call.reward,
        }
        place += 1


def messages(recorded: Recorded, selection: Selection, coverage: Coverage) -> Iterator[Line]:
    """Yield the calls whose messages are known."""
    for call in _with_messages(recorded, selection, coverage):
        note_exported(call, coverage)
        line: Line = {"messages": call.prompt + call.completion}
        if call.tools:
            line["tools"] = call.tools
        yield line | {"reward": call.reward} | call.where


def sft(recorded: Recorded, selection: Selection, coverage: Coverage) -> Iterator[Line]:
    """Yield each conversation once, at its longest; nothing but ``messages`` and ``tools``: services insist on that."""
    for call in longest(_with_messages(recorded, selection, coverage), coverage):
        note_exported(call, coverage)
        line: Line = {"messages": call.prompt + call.completion}
        if call.tools:
            line["tools"] = call.tools
        yield line


def trl(recorded: Recorded, selection: Selection, coverage: Coverage) -> Iterator[Line]:
    """Yield the calls in TRL's form of prompt and completion, with the sampled tokens where they are known."""
    for call in _with_messages(recorded, selection, coverage):
        note_exported(call, coverage)
        line: Line = {"prompt": call.prompt, "completion": call.completion}
        if call.tools:
            line["tools"] = call.tools
        ids = _has_ids(call)
        answer = call.tokens.choices[0] if ids else None
        line["prompt_ids"] = list(call.tokens.prompt or ()) if ids else None
        line["completion_ids"] = list(answer.ids or ()) if answer else None
        line["logprobs"] = list(answer.logprobs) if answer and answer.logprobs else None
        yield line | {"reward": call.reward} | call.where


LINES: dict[str, Callable[[Recorded, Selection, Coverage], Iterator[Line]]] = {
    "triplets": triplets,
    "messages": messages,
    "sft": sft,
    "trl": trl,
}
"""Formats by name."""


def longest(calls: list[Call], coverage: Coverage) -> list[Call]:
    """Return the calls that no later one continues; the others are counted."""
    continued: set[int] = set()
    for turn in turns((call.conversation for call in calls), (call.agent for call in calls)):
        if turn.relation == "continues" and turn.before is not None:
            continued.add(turn.before)
    if continued:
        coverage.left_out[why.BEGINNING] += len(continued)
    return [call for place, call in enumerate(calls) if place not in continued]


def with_messages(calls: list[Call], coverage: Coverage) -> list[Call]:
    """Return the calls whose messages and answer are known; the others are counted."""
    kept: list[Call] = []
    for call in calls:
        if not call.conversation.input:
            coverage.left_out[why.NO_MESSAGES] += 1
        elif not call.completion:
            coverage.left_out[why.NO_ANSWER] += 1
        else:
            kept.append(call)
    return kept


def _with_messages(recorded: Recorded, selection: Selection, coverage: Coverage) -> list[Call]:
    return with_messages(calls_of(recorded, selection, coverage), coverage)


def _has_ids(call: Call) -> bool:
    choices = call.tokens.choices
    return bool(call.tokens.prompt and choices and choices[0].index == 0 and choices[0].ids)


def finite(value: object) -> object:
    """Return *value* as JSON can hold it: NaN and infinities, which an engine may report, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in cast("list[object]", value)]
    return value
