"""The spans that recorded the same call: often only one of them has the messages, or the tokens.

A library that records the call of another one that is recorded as well is above it, with no other call below; or beside
it, around it in time, with the same id of the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentlightning.types.query import SpanFacts


class Sight(NamedTuple):
    """What matters of a span here."""

    facts: SpanFacts
    start_ns: int
    end_ns: int | None


class _Node(Protocol):
    @property
    def children(self) -> Sequence[object]:
        """The nodes below."""
        ...


N = TypeVar("N", bound=_Node)


def witnesses(nodes: Iterable[N], calls: Sequence[N], see: Callable[[N], Sight]) -> list[list[N]]:
    """Return for each of *calls* all spans that recorded it, its own first, then those above it, then those beside.

    Args:
        nodes: Every span of the tree, the calls among them.
        calls: The calls that count.
        see: What a node's span is.
    """
    every = list(nodes)
    parents = {id(child): node for node in every for child in node.children}
    chosen = {id(call) for call in calls}
    above: dict[int, list[N]] = {id(call): [] for call in calls}
    counts: dict[int, int] = {}
    for call in calls:
        outer = parents.get(id(call))
        while outer is not None:
            counts[id(outer)] = counts.get(id(outer), 0) + 1
            if see(outer).facts.kind == "llm":
                above[id(call)].append(outer)
            outer = parents.get(id(outer))
    beside: dict[str, list[N]] = {}
    for node in every:
        facts = see(node).facts
        if facts.kind == "llm" and facts.response_id and id(node) not in chosen and id(node) not in counts:
            beside.setdefault(facts.response_id, []).append(node)
    found: list[list[N]] = []
    for call in calls:
        own = see(call)
        twins = [node for node in beside.get(own.facts.response_id or "", ()) if _contains(see(node), own)]
        outer_ones = [node for node in above[id(call)] if counts[id(node)] == 1]
        found.append([call, *outer_ones, *twins])
    return found


def _contains(outer: Sight, inner: Sight) -> bool:
    """Tell whether *outer* lasted from before *inner* began until after it ended."""
    if outer.end_ns is None or inner.end_ns is None:
        return False
    return outer.start_ns <= inner.start_ns and inner.end_ns <= outer.end_ns
