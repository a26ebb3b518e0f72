"""The rows of a rollout as one tree, with totals that count every call once.

No recursion anywhere: a chain of 100,000 spans is as good as any other tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from agentlightning.semconv import SAMPLING
from agentlightning.view.cost import ZERO, Price, plus, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentlightning.types.query import SpanFacts, SpanRow

    Pricer = Callable[[SpanFacts, int], Price]

COUNTED_KINDS = ("llm", "embedding")
"""Kinds of spans whose tokens and cost are added up."""


class Totals(msgspec.Struct, kw_only=True, gc=False):
    """Sums over some spans; ``a + b`` adds them, exactly for the cost.

    Tokens are those of counted calls: see ``Node.counted``.
    """

    spans: int = 0
    errors: int = 0
    """Spans with status ``ERROR``."""
    llm_calls: int = 0
    embedding_calls: int = 0
    failed_calls: int = 0
    """Counted calls, LLM or embedding, with status ``ERROR``."""
    calls_without_usage: int = 0
    """Counted calls that reported no tokens."""
    inconsistent: int = 0
    """Counted calls whose reported token counts contradict each other."""
    fresh_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    """Reasoning included."""
    reasoning_tokens: int = 0
    cost: Decimal = ZERO
    """USD, sum over the calls whose cost is known."""
    cost_known: int = 0
    """Counted calls whose cost is known."""
    cost_unknown: int = 0
    """Counted calls whose cost is not known; above 0 the ``cost`` is a lower bound."""
    reported_cost: float = 0.0
    """USD, sum of what providers and instrumentors reported for counted calls."""
    sampled_calls: int = 0
    """Counted calls that were kept by chance; each stands for more, of which the three below are the estimate."""
    unseen_calls: float = 0.0
    unseen_tokens: float = 0.0
    unseen_cost: Decimal = ZERO

    @property
    def estimated_calls(self) -> float:
        """Counted calls, also those that sampling left out: without bias, exact where nothing was sampled."""
        return self.llm_calls + self.embedding_calls + self.unseen_calls

    @property
    def estimated_tokens(self) -> float:
        """Tokens of those calls."""
        return self.total_tokens + self.unseen_tokens

    @property
    def estimated_cost(self) -> Decimal:
        """USD for those calls."""
        return plus(self.cost, self.unseen_cost)

    @property
    def input_tokens(self) -> int:
        """All prompt tokens: fresh, cache read and cache write."""
        return self.fresh_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Totals) -> Totals:
        """Return the sums of both."""
        result = Totals()
        result.add(self)
        result.add(other)
        return result

    def add(self, other: Totals) -> None:
        """Add *other* to this one, in place; for a sum of one's own, since nodes of a tree share theirs."""
        self.spans += other.spans
        self.errors += other.errors
        if not (other.llm_calls or other.embedding_calls):
            return  # all else is about calls, and most spans are none
        self.llm_calls += other.llm_calls
        self.embedding_calls += other.embedding_calls
        self.failed_calls += other.failed_calls
        self.calls_without_usage += other.calls_without_usage
        self.inconsistent += other.inconsistent
        self.fresh_tokens += other.fresh_tokens
        self.cache_read_tokens += other.cache_read_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.cost = plus(self.cost, other.cost)
        self.cost_known += other.cost_known
        self.cost_unknown += other.cost_unknown
        self.reported_cost += other.reported_cost
        if other.sampled_calls:
            self.sampled_calls += other.sampled_calls
            self.unseen_calls += other.unseen_calls
            self.unseen_tokens += other.unseen_tokens
            self.unseen_cost = plus(self.unseen_cost, other.unseen_cost)


# Shared by all spans that are no calls: most of a tree. Never changed, since ``add`` works on fresh sums only.
_PLAIN = Totals(spans=1)
_PLAIN_ERROR = Totals(spans=1, errors=1)


@dataclass(eq=False, repr=False)
class Node:
    """One span in the tree, or the virtual root over all traces (``row`` is None)."""

    __slots__ = ("children", "counted", "depth", "own", "price", "row", "state", "totals", "weight")
    row: SpanRow | None
    children: Sequence[Node]
    """Ordered by start, then by sequence."""
    depth: int
    """0 for the virtual root, 1 for its children."""
    state: str
    """``ended``, ``open``, or ``interrupted``: open, and the process that wrote it is gone."""
    counted: bool
    """Its tokens and cost are in the totals: it is an LLM call with no LLM call below it at any depth (an embedding
    call with no embedding call below it), so that a call that two libraries recorded counts once; and of two spans of
    one call that lie beside each other the inner one."""
    price: Price | None
    """What the call cost; None on spans that are not counted, or when prices were not asked for."""
    own: Totals
    """This span alone."""
    totals: Totals
    """Sums over this span and everything below it."""
    weight: float
    """For how many spans it stands: 1, or the inverse of the probability with which it was kept."""


@dataclass(frozen=True)
class RolloutView:
    """All spans of an attempt in one tree."""

    root: Node
    """The virtual root; its totals are those of the attempt."""
    _preorder: list[Node] = field(repr=False)

    @property
    def totals(self) -> Totals:
        """Sums over all spans."""
        return self.root.totals

    def walk(self) -> Iterator[Node]:
        """Yield the node of every span once, parents before their children, siblings in order; without the root."""
        return iter(self._preorder)


def build(
    rows: Sequence[SpanRow],
    *,
    is_gone: Callable[[str], bool] = lambda _process: False,
    price: Pricer | None = None,
) -> RolloutView:
    """Return the tree of *rows*, which are the spans of one attempt in any order; each is in it exactly once.

    A span whose parent is missing is a child of the virtual root. Of spans that are each other's ancestors the
    earliest becomes a child of the root.

    Args:
        rows: Spans of one attempt.
        is_gone: Whether the process called so (``SpanRow.process``) has ended; asked once for each process that has
            open spans.
        price: What a call with these facts that started at this time (ns) cost, for example ``view.cost.price``;
            without it no cost is computed and both cost counts stay 0.
    """
    ordered = sorted(rows, key=lambda row: (row.start_ns, row.sequence_id))
    gone: dict[str, bool] = {}
    nodes = [_node(row, gone, is_gone) for row in ordered]
    _weigh(nodes)
    root = Node(None, (), 0, "ended", counted=False, price=None, own=Totals(), totals=Totals(), weight=1.0)
    families: dict[int, list[Node]] = {}
    for node, parent in zip(nodes, _parents(ordered), strict=True):
        families.setdefault(parent, []).append(node)
    for parent, children in families.items():
        (root if parent < 0 else nodes[parent]).children = children
    preorder = _number(root)
    _count(root, preorder, price)
    if any(node.state == "open" for node in root.children):
        root.state = "open"
    return RolloutView(root, preorder)


def _node(row: SpanRow, gone: dict[str, bool], is_gone: Callable[[str], bool]) -> Node:
    state = "ended"
    if row.end_ns is None:
        if row.process not in gone:
            gone[row.process] = is_gone(row.process)
        state = "interrupted" if gone[row.process] else "open"
    return Node(row, (), 0, state, counted=False, price=None, own=_PLAIN, totals=_PLAIN, weight=1.0)


def _weigh(nodes: list[Node]) -> None:
    """Set the weights of the spans that were kept by chance, but for traces that a tail rule keeps for sure."""
    sampled = [node for node in nodes if node.row is not None and node.row.facts.inclusion is not None]
    if not sampled:
        return
    sure = {node.row.trace_id for node in nodes if node.row is not None and node.row.name == SAMPLING}
    for node in sampled:
        if node.row is not None and node.row.facts.inclusion and node.row.trace_id not in sure:
            node.weight = 1 / node.row.facts.inclusion


def _parents(rows: list[SpanRow]) -> list[int]:
    """Return for each row the place of its parent, or -1; without cycles."""
    places: dict[tuple[str, str], int] = {}
    for place, row in enumerate(rows):
        places.setdefault((row.trace_id, row.span_id), place)
    parents = [-1 if row.parent_id is None else places.get((row.trace_id, row.parent_id), -1) for row in rows]
    # Which walk upwards has seen a place; a walk that meets itself has found a cycle.
    walks = [-1] * len(rows)
    for start in range(len(rows)):
        place = start
        while place >= 0 and walks[place] < 0:
            walks[place] = start
            place = parents[place]
        if place >= 0 and walks[place] == start:
            parents[_earliest_in_cycle(place, parents)] = -1
    return parents


def _earliest_in_cycle(place: int, parents: list[int]) -> int:
    earliest, other = place, parents[place]
    while other != place:
        earliest = min(earliest, other)
        other = parents[other]
    return earliest


def _number(root: Node) -> list[Node]:
    """Set the depths and return all nodes below *root*, parents first, siblings in order."""
    preorder: list[Node] = []
    stack = list(reversed(root.children))
    for child in root.children:
        child.depth = 1
    while stack:
        node = stack.pop()
        preorder.append(node)
        for child in reversed(node.children):
            child.depth = node.depth + 1
            stack.append(child)
    return preorder


def _count(root: Node, preorder: list[Node], price: Pricer | None) -> None:
    """Add everything up, from the leaves to the root."""
    _choose_calls(preorder)
    _drop_twins(preorder)
    for node in reversed(preorder):
        row = node.row
        if row is None:
            continue
        if node.counted:
            node.price = None if price is None else price(row.facts, row.start_ns)
            node.own = _call(row.facts, node.price, failed=row.status_code == "ERROR")
            if node.weight > 1:
                _estimate(node.own, node.weight)
        elif row.status_code == "ERROR":
            node.own = _PLAIN_ERROR
        node.totals = _sum(node.own, node.children)
    root.totals = _sum(root.own, root.children)


def _choose_calls(preorder: list[Node]) -> None:
    """Mark the calls that have no call of their kind below them."""
    calls: dict[int, frozenset[str]] = {}  # by id() of a node: kinds of the calls at or below it, where there are any
    for node in reversed(preorder):
        below = frozenset[str]()
        for child in node.children:
            if id(child) in calls:
                below |= calls.pop(id(child))
        kind = "" if node.row is None else node.row.facts.kind
        if kind in COUNTED_KINDS:
            node.counted = kind not in below
            below |= {kind}
        if below:
            calls[id(node)] = below


def _drop_twins(preorder: list[Node]) -> None:
    """Unmark a call that a second library recorded beside it, and not below it.

    Anthropic's client writes a span of its own, and OpenLLMetry does not make its span the current one: the two are
    siblings, or the roots of two traces. They are one call where both have the same response id, different names, and
    one lies within the other in time; the inner one counts. Spans of the same name are never taken for one call: a
    server that is a stub, or a cache, gives every answer the same id.
    """
    answers: dict[str, list[tuple[int, int, Node]]] = {}
    for node in preorder:
        row = node.row
        if node.counted and row is not None and row.facts.response_id and row.end_ns is not None:
            answers.setdefault(row.facts.response_id, []).append((row.start_ns, -row.end_ns, node))
    for found in answers.values():
        if len(found) > 1:
            found.sort(key=lambda item: item[:2])
            for (_, outer_end, outer), (_, inner_end, inner) in pairwise(found):
                if outer_end <= inner_end and outer.row is not None and inner.row is not None:
                    outer.counted = outer.row.name == inner.row.name


def _sum(own: Totals, children: Sequence[Node]) -> Totals:
    if not children:
        return own
    result = Totals()
    result.add(own)
    for child in children:
        result.add(child.totals)
    return result


def _estimate(own: Totals, weight: float) -> None:
    """Add to the totals of one call what the calls like it that were left out come to."""
    own.sampled_calls = 1
    own.unseen_calls = weight - 1
    own.unseen_tokens = own.total_tokens * (weight - 1)
    own.unseen_cost = times(own.cost, weight - 1)


def _call(facts: SpanFacts, price: Price | None, *, failed: bool) -> Totals:
    """Return the totals of the span of one counted call."""
    known = price is not None and price.usd is not None
    return Totals(
        spans=1,
        errors=int(failed),
        llm_calls=int(facts.kind == "llm"),
        embedding_calls=int(facts.kind == "embedding"),
        failed_calls=int(failed),
        calls_without_usage=int(facts.fresh_tokens is None and facts.output_tokens is None),
        inconsistent=int(facts.inconsistent),
        fresh_tokens=facts.fresh_tokens or 0,
        cache_read_tokens=facts.cache_read_tokens or 0,
        cache_write_tokens=facts.cache_write_tokens or 0,
        output_tokens=facts.output_tokens or 0,
        reasoning_tokens=facts.reasoning_tokens or 0,
        cost=price.usd if price is not None and price.usd is not None else ZERO,
        cost_known=int(known),
        cost_unknown=int(price is not None and not known),
        reported_cost=facts.reported_cost or 0.0,
    )
