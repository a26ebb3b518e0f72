"""Turns of a conversation, and whether the token ids of each go on with those of the turn before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.view.drift import Call, check, first_difference
from agentlightning.view.messages import Conversation, Message
from agentlightning.view.parts import ReasoningPart, TextPart, ToolCallPart
from agentlightning.view.tokens import ChoiceTokens, TokenIds
from agentlightning.view.transcript import Turn
from agentlightning.view.transcript import turns as turns_of


def turns(calls: list[Conversation], groups: list[str] | None = None) -> list[Turn]:
    """Return the turns of calls."""
    return list(turns_of(calls, groups))


def said(role: str, text: str) -> Message:
    """Make a message."""
    return Message(role, (TextPart(text),))


SYSTEM, ASK, ANSWER, MORE, LAST = (
    said("system", "be kind"), said("user", "one?"), said("assistant", "two"), said("user", "why?"),
    said("assistant", "because"),
)  # fmt: skip


def talk(*sent: Message, answer: Message | tuple[Message, ...] = ANSWER) -> Conversation:
    """Make a conversation."""
    return Conversation(input=sent, output=answer if isinstance(answer, tuple) else (answer,))


def call(conversation: Conversation, prompt: list[int] | None, *answers: list[int], group: str = "") -> Call:
    """Make a call with ids."""
    choices = tuple(ChoiceTokens(index=place, ids=tuple(ids)) for place, ids in enumerate(answers))
    return Call(conversation, TokenIds(prompt=None if prompt is None else tuple(prompt), choices=choices), group)


FIRST = call(talk(SYSTEM, ASK), [1, 2, 3], [4, 5])


def test_a_turn_shows_only_what_it_appended() -> None:
    """A call that repeats its history continues the call before, whatever runs beside it."""
    found = turns(
        [
            talk(SYSTEM, ASK),
            talk(SYSTEM, said("user", "other")),
            talk(SYSTEM, ASK, ANSWER, MORE, answer=LAST),
            talk(SYSTEM, ASK),
            talk(SYSTEM, ASK, ANSWER, said("user", "and?")),
        ]
    )
    assert [(turn.relation, turn.before, turn.repeated) for turn in found] == [
        ("first", None, 0), ("first", None, 0), ("continues", 0, 3), ("branch", 2, 2), ("continues", 3, 3),
    ]  # fmt: skip
    assert found[2].appended == (MORE,)


def test_an_answer_is_known_again_in_another_form() -> None:
    """Thoughts, spaces in arguments and a finish reason do not make an answer another one."""
    asked = Message("assistant", (ReasoningPart("hm"), ToolCallPart("c", "f", '{"a":1}')), "", "tool_calls")
    again = Message("assistant", (ToolCallPart("c", "f", '{ "a": 1 }'),))
    found = turns([talk(ASK, answer=asked), talk(ASK, again, said("tool", "3"))])
    assert (found[1].relation, found[1].repeated) == ("continues", 2)


def test_any_choice_and_any_list_of_items_is_continued() -> None:
    """A later call may continue each of several choices, or an answer that came in items."""
    both = (said("assistant", "a"), said("assistant", "b"))
    for answer in ((both[0],), (both[1],), both):
        found = turns([talk(ASK, answer=both), talk(ASK, *answer, MORE)])
        assert (found[1].relation, found[1].repeated) == ("continues", 1 + len(answer))


def test_a_changed_history_is_seen() -> None:
    """A message that was edited or left out makes the turn an edited one, from that message on."""
    edited = said("user", "ONE?")
    before = [talk(SYSTEM, ASK), talk(SYSTEM, ASK, ANSWER, MORE, answer=LAST)]
    for sent, repeated in (
        ((SYSTEM, edited, ANSWER, MORE, LAST, ASK), 1),
        ((SYSTEM, ASK, said("assistant", "TWO"), MORE, LAST, ASK), 2),
        ((SYSTEM, ASK, ANSWER, edited, LAST, ASK), 3),
        ((SYSTEM, ASK, ANSWER, MORE, said("assistant", "BECAUSE"), ASK), 4),
        ((SYSTEM, ANSWER, MORE, LAST, ASK), 1),
    ):
        turn = turns([*before, talk(*sent)])[2]
        assert (turn.relation, turn.before, turn.repeated) == ("edited", 1, repeated)


def test_groups_are_kept_apart() -> None:
    """A call of another agent is never the turn before."""
    found = turns([talk(ASK), talk(ASK, ANSWER, MORE), talk(ASK, ANSWER, MORE)], ["a", "b", "a"])
    assert [turn.before for turn in found] == [None, None, 0]


def test_ids_that_go_on_are_no_drift() -> None:
    """A prompt that begins with prompt and answer of the turn before is right, of whichever choice."""
    second = talk(SYSTEM, ASK, ANSWER, MORE)
    for answers in ([[4, 5]], [[9, 9], [4, 5]]):
        found = check([call(talk(SYSTEM, ASK), [1, 2, 3], *answers), call(second, [1, 2, 3, 4, 5, 6], [7])])
        assert (found[1].compared, found[1].drift) == (True, None)


def test_an_answer_read_back_as_other_tokens() -> None:
    """Same text, other tokens: the drift lies in the answer, and names it."""
    drift = check([FIRST, call(talk(SYSTEM, ASK, ANSWER, MORE), [1, 2, 3, 45, 6])])[1].drift
    assert drift is not None
    assert (drift.position, drift.expected, drift.found, drift.in_answer) == (3, 4, 45, True)
    assert (drift.first_message, drift.last_message, drift.cause) == (2, 2, "tokens")


def test_thoughts_that_a_template_leaves_out() -> None:
    """Where the answer was thought about, and its ids do not come back, that is the cause."""
    answer = Message("assistant", (ReasoningPart("hm"), TextPart("two")))
    calls = [call(talk(ASK, answer=answer), [1], [2, 3]), call(talk(ASK, ANSWER, MORE), [1, 3, 4])]
    drift = check(calls)[1].drift
    assert drift is not None
    assert (drift.cause, drift.position) == ("thinking", 1)


def test_an_edited_message_is_named() -> None:
    """A message whose text changed is the one that is named; one that is gone is said to be missing."""
    edited = check([FIRST, call(talk(SYSTEM, said("user", "1?"), ANSWER, MORE), [1, 2, 9, 4, 5])])[1].drift
    assert edited is not None
    assert (edited.first_message, edited.cause, edited.in_answer) == (1, "edited", False)
    gone = check([FIRST, call(talk(SYSTEM, ANSWER, MORE), [1, 4, 5])])[1].drift
    assert gone is not None
    assert (gone.first_message, gone.cause) == (1, "missing")


def test_the_ends_of_turns_narrow_a_change_down() -> None:
    """A token of an early message is found between the ends of the turns that are known."""
    second = call(talk(SYSTEM, ASK, ANSWER, MORE, answer=LAST), [1, 2, 3, 4, 5, 6], [7])
    sent = talk(SYSTEM, ASK, ANSWER, MORE, LAST, ASK)
    for position, place in ((0, (0, 1)), (2, (0, 1)), (3, (2, 2)), (4, (2, 2)), (5, (3, 3)), (6, (4, 4))):
        ids = [1, 2, 3, 4, 5, 6, 7, 8]
        ids[position] = 99
        drift = check([FIRST, second, call(sent, ids)])[2].drift
        assert drift is not None
        assert (drift.position, (drift.first_message, drift.last_message)) == (position, place)


def test_nothing_is_compared_without_ids() -> None:
    """A call without ids, or after one without, is not called right and not called wrong."""
    then = talk(SYSTEM, ASK, ANSWER, MORE)
    for calls in ([FIRST, call(then, None)], [call(talk(SYSTEM, ASK), None), call(then, [1])], [FIRST, FIRST]):
        assert (check(calls)[1].compared, check(calls)[1].drift) == (False, None)
    assert check([]) == []


MESSAGES = st.builds(said, st.sampled_from(["system", "user", "assistant", "tool"]), st.sampled_from("abc"))
IDS = st.lists(st.integers(0, 3), max_size=6)


def any_call(sent: list[Message], answer: list[Message], prompt: list[int] | None, ids: list[list[int]]) -> Call:
    """Make a call of one of two agents."""
    return call(talk(*sent, answer=tuple(answer)), prompt, *ids, group="xy"[len(sent) % 2])


CALLS = st.builds(
    any_call, st.lists(MESSAGES, max_size=5), st.lists(MESSAGES, max_size=2), st.none() | IDS, st.lists(IDS, max_size=2)
)


@given(st.lists(CALLS, max_size=6))
def test_a_report_is_always_true(calls: list[Call]) -> None:
    """Whatever comes: a drift names a token that differs after a beginning that does not, and a message that exists."""
    for place, found in enumerate(check(calls)):
        turn, drift = found.turn, found.drift
        assert turn.before is None or turn.before < place
        assert turn.repeated <= len(calls[place].conversation.input)
        if drift is None:
            continue
        before, ids = calls[drift.before], calls[place].tokens.prompt or ()
        answers = {choice.index: choice.ids or () for choice in before.tokens.choices}
        expected = (before.tokens.prompt or ()) + answers.get(drift.choice, ())
        assert found.compared
        assert ids[: drift.position] == expected[: drift.position]
        assert expected[drift.position] == drift.expected != drift.found
        assert 0 <= drift.first_message <= drift.last_message


@given(IDS, IDS)
def test_the_first_difference_is_the_first(before: list[int], after: list[int]) -> None:
    """None means that the one begins with the other."""
    place = first_difference(tuple(before), tuple(after))
    assert (place is None) == (after[: len(before)] == before)
