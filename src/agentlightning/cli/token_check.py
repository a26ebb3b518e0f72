"""The token ids of a rollout's calls: how many were reported, and whether each turn goes on with the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentlightning.cli.chat import agents_of, with_spans
from agentlightning.cli.terminal import fit, safe, style, width
from agentlightning.cli.text import count, plural
from agentlightning.view.drift import Call, Drift, TokenCheck, check
from agentlightning.view.tokens import TokenIds, token_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.cli.chat import Fetch
    from agentlightning.types.query import SpanRow
    from agentlightning.view.tree import RolloutView

_CAUSES = {
    "edited": "its text was changed",
    "missing": "it was left out",
    "thinking": "what the model thought is not repeated",
    "tokens": "the same text became other tokens",
}


class CheckedCall(NamedTuple):
    """A call, its ids, and what comparing them said."""

    row: SpanRow
    tokens: TokenIds
    result: TokenCheck


def checked_calls(view: RolloutView, fetch: Fetch) -> list[CheckedCall]:
    """Return every call of the rollout with its token ids compared; holds the ids of all calls at once."""
    agents = agents_of(view)
    rows: list[SpanRow] = []
    calls: list[Call] = []
    for call in with_spans(view, fetch):
        agent = agents.get(id(call.node))
        group = agent.row.span_id if agent and agent.row else ""
        rows.append(call.row)
        known = next((found for found in (token_ids(span.attributes) for span in call.spans) if found), TokenIds())
        calls.append(Call(call.conversation(), known, group))
    return [CheckedCall(row, call.tokens, result) for row, call, result in zip(rows, calls, check(calls), strict=True)]


def token_lines(calls: list[CheckedCall]) -> Iterator[str]:
    """Yield a line for each call, one more for each drift, and the sum."""
    if not calls:
        yield "No LLM call was recorded."
        return
    model = max(10, min(30, width() - 62))
    title = f"{'CALL':>5}  {fit('MODEL', model)} {'PROMPT IDS':>11} {'ANSWER IDS':>15} {'LOGPROBS':>15}  TURN"
    yield style(fit(title, width()).rstrip(), bold=True)
    for number, call in enumerate(calls, 1):
        choices = call.tokens.choices
        prompt = count(len(call.tokens.prompt)) if call.tokens.prompt is not None else "none"
        answers = ", ".join(count(len(choice.ids)) for choice in choices if choice.ids is not None) or "none"
        logprobs = ", ".join(count(len(choice.logprobs)) for choice in choices if choice.logprobs is not None) or "none"
        name = fit(safe(call.row.facts.model or call.row.name), model)
        yield f"{number:>5}  {name} {prompt:>11} {answers:>15} {logprobs:>15}  {_verdict(call.result)}"
        if call.result.drift is not None:
            yield style(f"       {explained(call.result.drift)}", fg="red")
        if call.tokens.problems:
            yield style(f"       not usable: {safe(', '.join(call.tokens.problems))}", fg="yellow")
    yield _sum(calls)


def _verdict(result: TokenCheck) -> str:
    turn = result.turn
    if turn.before is None:
        return "first"
    if turn.relation == "branch":
        return f"begins like {turn.before + 1}"
    if not result.compared:
        return f"after {turn.before + 1}, not compared: no ids"
    if result.drift is None:
        return style(f"goes on with {turn.before + 1}", fg="green")
    return style(f"drifts from {turn.before + 1}", fg="red")


def explained(drift: Drift) -> str:
    """Return a drift as one sentence; calls and messages are counted from 1, tokens from 0."""
    found = "the prompt ends" if drift.found is None else f"{drift.found} is there"
    where = f"message {drift.first_message + 1}"
    if drift.last_message != drift.first_message:
        where = f"one of the messages {drift.first_message + 1} to {drift.last_message + 1}"
    part = "answer" if drift.in_answer else "prompt"
    return (
        f"token {count(drift.position)}: {drift.expected} of the {part} of call {drift.before + 1} should be there, "
        f"{found}; {where}: {_CAUSES[drift.cause]}"
    )


def _sum(calls: list[CheckedCall]) -> str:
    compared = sum(call.result.compared for call in calls)
    drifts = sum(call.result.drift is not None for call in calls)
    without = sum(call.tokens.prompt is None or not any(c.ids for c in call.tokens.choices) for call in calls)
    return (
        f"{plural(len(calls), 'call')}, {count(without)} without ids, {plural(compared, 'turn')} compared, "
        f"{plural(drifts, 'drift')}"
    )


def token_object(number: int, call: CheckedCall) -> dict[str, object]:
    """Return a call for ``--tokens --json``: the ids, and what comparing them said."""
    turn, drift = call.result.turn, call.result.drift
    return {
        "number": number,
        "trace_id": call.row.trace_id,
        "span_id": call.row.span_id,
        "relation": turn.relation,
        "before": None if turn.before is None else turn.before + 1,
        "prompt_ids": call.tokens.prompt,
        "choices": [
            {"index": choice.index, "ids": choice.ids, "logprobs": choice.logprobs, "prompt_ids": choice.prompt}
            for choice in call.tokens.choices
        ],
        "problems": list(call.tokens.problems),
        "compared": call.result.compared,
        "drift": None if drift is None else msgspec.structs.asdict(drift) | {"before": drift.before + 1},
    }
