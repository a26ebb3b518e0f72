"""Bills: what many calls cost, by class of tokens and price, so that every sum can be followed to its parts.

All amounts are exact decimals. The total of a bill is the sum of its lines to the last digit, the total of several
bills the sum of theirs, however the calls are grouped.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentlightning.view.cost import ZERO, plus, price, times, total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentlightning.view.cost import Price
    from agentlightning.view.rate import PriceTable
    from agentlightning.view.tree import Node

CLASSES = ("fresh", "cache_read", "cache_write", "output", "reasoning", "request")
"""Classes of ``Amount.token_class`` in the order of a bill."""


class Item(NamedTuple):
    """What is billed together: one class of tokens of one model at one price of one table."""

    provider: str
    model: str
    token_class: str
    usd_per_million: Decimal
    source: str
    version: str


class Unknown(NamedTuple):
    """Calls without a cost."""

    provider: str
    model: str
    reason: str


class Line(msgspec.Struct):
    """So much of an item."""

    quantity: int = 0
    usd: Decimal = ZERO


class Bill(msgspec.Struct):
    """What some calls cost."""

    calls: int = 0
    priced: int = 0
    """Calls whose cost is known."""
    lines: dict[Item, Line] = {}
    unknown: dict[Unknown, int] = {}
    """Calls whose cost is not known; while there are any, the total is a lower bound."""
    tokens: dict[str, int] = {}
    """Tokens of all calls, priced or not, by class: ``fresh cache_read cache_write output``, and ``reasoning``, which
    is a part of the output."""
    reported_usd: float = 0.0
    """What providers or instrumentors reported, never mixed with our own figures."""
    reported_calls: int = 0
    notes: dict[str, int] = {}
    """What a reader should know about how prices were found, with the number of calls."""
    suspicious: int = 0
    """Calls that cost more than a token can."""
    sampled: int = 0
    """Calls that were kept by chance; what they stand for is in ``unseen_calls``, ``unseen_tokens``, ``unseen_usd``."""
    unseen_calls: float = 0.0
    unseen_tokens: dict[str, float] = {}
    unseen_usd: Decimal = ZERO

    @property
    def usd(self) -> Decimal:
        """The sum of the lines, exactly."""
        return total(line.usd for line in self.lines.values())

    @property
    def estimated_usd(self) -> Decimal:
        """What all calls cost, also those that sampling left out: without bias, exact where nothing was sampled."""
        return plus(self.usd, self.unseen_usd)

    @property
    def estimated_calls(self) -> float:
        """How many calls there were, as ``estimated_usd``."""
        return self.calls + self.unseen_calls

    def estimated_tokens(self, name: str) -> float:
        """Return how many tokens of the class *name* there were, as ``estimated_usd``."""
        return self.tokens.get(name, 0) + self.unseen_tokens.get(name, 0.0)

    def add(self, node: Node, found: Price) -> None:
        """Put the call of *node*, which is counted, on the bill with the price that was found for it."""
        if node.row is None:
            return
        facts = node.row.facts
        self.calls += 1
        for name, number in (
            ("fresh", facts.fresh_tokens),
            ("cache_read", facts.cache_read_tokens),
            ("cache_write", facts.cache_write_tokens),
            ("output", facts.output_tokens),
            ("reasoning", facts.reasoning_tokens),
        ):
            self.tokens[name] = self.tokens.get(name, 0) + (number or 0)
            if node.weight > 1:
                self.unseen_tokens[name] = self.unseen_tokens.get(name, 0.0) + (number or 0) * (node.weight - 1)
        if node.weight > 1:
            self.sampled += 1
            self.unseen_calls += node.weight - 1
            self.unseen_usd = plus(self.unseen_usd, times(found.usd or ZERO, node.weight - 1))
        if found.usd is None:
            reason = Unknown(facts.provider or "", facts.model or "", found.reason)
            self.unknown[reason] = self.unknown.get(reason, 0) + 1
        else:
            self.priced += 1
        for amount in found.amounts:
            item = Item(
                found.provider, found.model, amount.token_class, amount.usd_per_million, found.source, found.version
            )
            line = self.lines.setdefault(item, Line())
            line.quantity += amount.quantity
            line.usd = plus(line.usd, amount.usd)
        if found.note:
            self.notes[found.note] = self.notes.get(found.note, 0) + 1
        self.suspicious += found.suspicious
        if found.reported_usd is not None:
            self.reported_usd += found.reported_usd
            self.reported_calls += 1

    def ordered(self) -> list[tuple[Item, Line]]:
        """Return the lines by model, then by class."""
        return sorted(
            self.lines.items(),
            key=lambda entry: (*entry[0][:2], CLASSES.index(entry[0].token_class), entry[0].usd_per_million),
        )


def bills(
    nodes: Iterable[Node],
    key: Callable[[Node], str],
    table: PriceTable | None = None,
    into: dict[str, Bill] | None = None,
) -> dict[str, Bill]:
    """Put the counted calls among *nodes* on a bill for each *key*.

    Args:
        nodes: Nodes of a tree, for example ``RolloutView.walk()``; what is not counted is on no bill.
        key: Name of the bill of a call.
        table: Where prices come from, as in ``view.cost.price``.
        into: Bills of other trees, to be gone on with.
    """
    found = {} if into is None else into
    for node in nodes:
        if node.counted and node.row is not None:
            found.setdefault(key(node), Bill()).add(node, price(node.row.facts, node.row.start_ns, table))
    return found


def merged(several: Iterable[Bill]) -> Bill:
    """Return one bill of all calls of *several*."""
    whole = Bill()
    for bill in several:
        whole.calls += bill.calls
        whole.sampled += bill.sampled
        whole.unseen_calls += bill.unseen_calls
        whole.unseen_usd = plus(whole.unseen_usd, bill.unseen_usd)
        for name, unseen in bill.unseen_tokens.items():
            whole.unseen_tokens[name] = whole.unseen_tokens.get(name, 0.0) + unseen
        whole.priced += bill.priced
        whole.suspicious += bill.suspicious
        whole.reported_usd += bill.reported_usd
        whole.reported_calls += bill.reported_calls
        for item, line in bill.lines.items():
            mine = whole.lines.setdefault(item, Line())
            mine.quantity += line.quantity
            mine.usd = plus(mine.usd, line.usd)
        for name, number in bill.tokens.items():
            whole.tokens[name] = whole.tokens.get(name, 0) + number
        for reason, number in bill.unknown.items():
            whole.unknown[reason] = whole.unknown.get(reason, 0) + number
        for note, number in bill.notes.items():
            whole.notes[note] = whole.notes.get(note, 0) + number
    return whole
