"""Do the token ids of a turn begin with those of the turn before? And if not, which message is to blame.

A trainer learns from the tokens that the engine saw and sampled. Where the next prompt is built from text again, the
same words may come back as other tokens (``Alla`` sampled as two, read back as one), a template may drop what the
model thought, or a program may edit its history. Whoever then joins the turns trains on tokens that never were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentlightning.view.messages import Conversation, Message
from agentlightning.view.parts import ReasoningPart
from agentlightning.view.tokens import TokenIds
from agentlightning.view.transcript import Turn, common_beginning, message_key, turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Ids = tuple[int, ...]


class Call(msgspec.Struct, frozen=True):
    """What the check needs of one call."""

    conversation: Conversation
    tokens: TokenIds
    group: str = ""
    """Whose call it is, for example the id of the span of its agent; calls of another group are never its turns."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt that does not begin with the ids of the turn before, its answer included."""

    before: int
    """Place of the call before."""
    choice: int
    """Which of its answers was continued: the one with most in common."""
    position: int
    """First token, from 0, that differs, in the prompt of the later call."""
    expected: int | None
    """Id that should be there."""
    found: int | None
    """Id that is there; None where the prompt ends before."""
    in_answer: bool
    """The token belongs to the answer of the call before, not to its prompt."""
    first_message: int
    """The messages of the later call in which the token can lie, counted from 0: from this one ..."""
    last_message: int
    """... to this one. Ids say nothing about messages; the ends of the turns before do."""
    cause: str
    """``edited``: the text of the message is another one. ``missing``: it is not there any more. ``thinking``: the
    answer was thought about, and the template leaves that out. ``tokens``: same text, other tokens."""


class TokenCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What the ids of one call say."""

    turn: Turn
    compared: bool = False
    """Both this call and the one before reported their ids."""
    drift: Drift | None = None
    """None where the ids go on, or where there was nothing to compare."""


def check(calls: Iterable[Call]) -> list[TokenCheck]:
    """Compare each of *calls*, in the order of their start, with the call that it continues.

    Pure; needs no tokenizer. A call without ids, or whose call before has none, is not ``compared``.
    """
    listed = list(calls)
    found: list[TokenCheck] = []
    edges: list[list[tuple[int, int]]] = []
    for place, turn in enumerate(turns((call.conversation for call in listed), (call.group for call in listed))):
        call = listed[place]
        known = edges[turn.before] if turn.before is not None and turn.relation == "continues" else []
        drift, compared = None, False
        if turn.before is not None and turn.relation in ("continues", "edited"):
            drift, compared = _compare(listed[turn.before], call, turn, known)
        found.append(TokenCheck(turn=turn, compared=compared, drift=drift))
        edges.append(_edges([] if drift else known, call))
    return found


def first_difference(before: Ids, after: Ids) -> int | None:
    """Return the place of the first token in which *after* does not begin with *before*, or None when it does."""
    if after[: len(before)] == before:
        return None
    return common_beginning(before, after)


def _compare(before: Call, after: Call, turn: Turn, edges: list[tuple[int, int]]) -> tuple[Drift | None, bool]:
    prompt, ids = before.tokens.prompt, after.tokens.prompt
    if prompt is None or ids is None:
        return None, False
    answers = [(choice.index, (choice.prompt or prompt) + choice.ids) for choice in before.tokens.choices if choice.ids]
    if not answers:
        answers = [(0, prompt)]
    choice, expected = max(answers, key=lambda item: (common_beginning(item[1], ids), -item[0]))
    position = first_difference(expected, ids)
    if position is None:
        return None, True
    in_answer = position >= len(prompt)
    first, last, cause = _blame(before, turn, position, edges, in_answer=in_answer)
    drift = Drift(
        before=turn.before or 0,
        choice=choice,
        position=position,
        expected=expected[position],
        found=ids[position] if position < len(ids) else None,
        in_answer=in_answer,
        first_message=first,
        last_message=last,
        cause=cause,
    )
    return drift, True


def _blame(
    before: Call, turn: Turn, position: int, edges: list[tuple[int, int]], *, in_answer: bool
) -> tuple[int, int, str]:
    """Return the first and the last message in which the token can lie, and why it is another one."""
    old = (*before.conversation.input, *before.conversation.output[:1])
    answer_place = len(before.conversation.input)
    if turn.relation == "edited" and turn.repeated < len(old):
        # The messages themselves differ; the first that does also is where the ids do.
        place = turn.repeated
        gone = place >= len(turn.conversation.input)
        return place, place, "missing" if gone or _is_gone(old[place], turn.appended) else "edited"
    if in_answer:
        thought = any(isinstance(part, ReasoningPart) for item in before.conversation.output for part in item.parts)
        return answer_place, answer_place, "thinking" if thought else "tokens"
    first, last = 0, max(0, answer_place - 1)
    for tokens, messages in edges:  # the turns before: so many messages were so many tokens
        if position >= tokens:
            first = min(messages, last)
        else:
            last = max(first, min(last, messages - 1))
            break
    thought = any(
        isinstance(part, ReasoningPart)
        for message in turn.conversation.input[first : last + 1]
        for part in message.parts
    )
    return first, last, "thinking" if thought else "tokens"


def _is_gone(message: Message, rest: Sequence[Message]) -> bool:
    """Tell whether *message* was left out rather than edited: none of the *rest* that begins there has its role."""
    return not rest or (rest[0].role != message.role and message_key(message) not in map(message_key, rest))


def _edges(known: list[tuple[int, int]], call: Call) -> list[tuple[int, int]]:
    """Return where messages end, as far as the ends of turns say it: so many tokens are so many messages."""
    prompt = call.tokens.prompt
    if prompt is None:
        return known
    sent = len(call.conversation.input)
    edges = [*known, (len(prompt), sent)]
    ids = call.tokens.choices[0].ids if call.tokens.choices else None
    if ids and call.conversation.output:
        edges.append((len(prompt) + len(ids), sent + 1))
    return edges
