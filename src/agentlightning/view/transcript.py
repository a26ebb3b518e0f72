"""The calls of a rollout as conversations: an agent's calls repeat their history, a turn is what each one appended.

A call continues the earlier call whose messages, its answer included, are the longest beginning of its own; so agents
that work side by side, and a history that somebody shortened, come out right without any name or id.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from agentlightning.view.loose import decoded, encoded
from agentlightning.view.messages import Conversation, Message
from agentlightning.view.parts import ReasoningPart, TextPart, ToolCallPart, ToolResultPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SYSTEM_ROLES = ("system", "developer")


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One call in its conversation."""

    conversation: Conversation
    """Everything that was sent and answered."""
    relation: str = "first"
    """``first``: of a conversation. ``continues``: all of the call before, its answer included, then more. ``edited``:
    goes on with a history in which something was changed or left out. ``branch``: only begins like the call before,
    for example the same prompt once more."""
    before: int | None = None
    """Place of the call before; None for the first of a conversation."""
    repeated: int = 0
    """So many messages of the input are those of the call before, from the beginning, its answer included."""

    @property
    def appended(self) -> tuple[Message, ...]:
        """The messages of the input that are new."""
        return self.conversation.input[self.repeated :]


def turns(conversations: Iterable[Conversation], groups: Iterable[object] | None = None) -> Iterator[Turn]:
    """Yield a turn for each of *conversations*, which are in the order of their start, as each is read.

    Args:
        conversations: What went into each call and came out of it.
        groups: For each call something that tells whose it is, for example its agent; calls of another group are
            never continued. None: all are of one.
    """
    book = _Book()
    names = None if groups is None else iter(groups)
    for place, conversation in enumerate(conversations):
        group = None if names is None else next(names)
        yield book.turn(group, conversation)
        book.note(group, conversation, place)


class _Book:
    """The beginnings of all conversations so far, each as one hash."""

    def __init__(self) -> None:
        # By beginning: the newest call that was sent it, and the newest that it is all of, its answer included.
        self._sent: dict[bytes, int] = {}
        self._whole: dict[bytes, int] = {}
        # For each call the length of its input, and the keys of its messages.
        self._calls: list[tuple[int, list[bytes]]] = []
        self._last: dict[object, int] = {}

    def turn(self, group: object, conversation: Conversation) -> Turn:
        """Return how *conversation* goes on with what was noted."""
        sent = conversation.input
        keys = [message_key(message) for message in sent]
        chain = _chain(group, keys)
        for length in range(len(chain), 0, -1):
            link = chain[length - 1]
            before, whole = self._sent.get(link), self._whole.get(link)
            if (before is None and whole is None) or all(item.role in _SYSTEM_ROLES for item in sent[:length]):
                continue
            if before is not None and length < len(sent) and self._is_edited(before, length, keys):
                relation = "edited"
            elif whole is not None:
                before, relation = whole, "continues"
            else:
                relation = "branch"
            return Turn(conversation=conversation, relation=relation, before=before, repeated=length)
        last = self._last.get(group)
        if last is not None:
            same = common_beginning(keys, self._calls[last][1])
            if self._is_edited(last, same, keys):
                return Turn(conversation=conversation, relation="edited", before=last, repeated=same)
        return Turn(conversation=conversation)

    def _is_edited(self, before: int, length: int, keys: Sequence[bytes]) -> bool:
        """Tell an edited history from a conversation that merely begins like another one.

        At least half of what the call before has after the *length* that both share is there too, or all of its input
        is shared and only its answer is another one.
        """
        sent, known = self._calls[before]
        rest = known[length:]
        if length >= sent:
            return bool(rest)
        return len(set(keys[length:]).intersection(rest)) * 2 >= len(rest)

    def note(self, group: object, conversation: Conversation, place: int) -> None:
        """Remember every beginning of a conversation, and each of its answers as an end."""
        keys = [message_key(message) for message in conversation.input]
        answers = [message_key(message) for message in conversation.output]
        chain = _chain(group, keys)
        self._sent.update(dict.fromkeys(chain, place))
        end = chain[-1] if chain else _seed(group)
        for answer in answers:  # choices, of which one is continued
            self._whole[_next(end, answer)] = place
        for answer in answers:  # or the items of one answer
            end = _next(end, answer)
        if answers:
            self._whole[end] = place
        self._calls.append((len(keys), keys + answers[:1]))
        self._last[group] = place


def message_key(message: Message) -> bytes:
    """Return a hash of what a message says; equal where a provider repeats it in another form.

    What the model thought, why it stopped, and the spaces in the arguments of a tool are left out: providers do not
    give them back as they came.
    """
    said: list[object] = [message.role]
    for part in message.parts:
        if isinstance(part, ReasoningPart):
            continue
        if isinstance(part, TextPart):
            said.append(("text", part.text.strip()))
        elif isinstance(part, ToolCallPart):
            arguments = decoded(part.arguments)
            said.append(("call", part.id, part.name, part.arguments if arguments is None else encoded(arguments)))
        elif isinstance(part, ToolResultPart):
            said.append(("result", part.call_id, part.text.strip()))
        else:
            said.append(repr(part))
    return hashlib.blake2b(repr(said).encode("utf-8", "backslashreplace"), digest_size=12).digest()


def common_beginning(left: Sequence[object], right: Sequence[object]) -> int:
    """Return how many items from the beginning are the same in both."""
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return length


def _seed(group: object) -> bytes:
    return hashlib.blake2b(repr(group).encode("utf-8", "backslashreplace"), digest_size=12).digest()


def _next(link: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(link + key, digest_size=12).digest()


def _chain(group: object, keys: Sequence[bytes]) -> list[bytes]:
    chain: list[bytes] = []
    link = _seed(group)
    for key in keys:
        link = _next(link, key)
        chain.append(link)
    return chain
