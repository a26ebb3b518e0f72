"""What a price table says: the prices of a model for each class of tokens."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

import msgspec


class Rate(msgspec.Struct, frozen=True, gc=False):
    """A price in USD for one million tokens, which may depend on the size of the prompt."""

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()
    """``(start, price)`` with rising starts. A prompt of more than ``start`` tokens pays that price for all tokens of
    the class, not only for those above it: the way providers bill long contexts."""

    def at(self, prompt_tokens: int) -> Decimal:
        """Return the price for one million tokens in a call whose whole prompt has *prompt_tokens*."""
        price = self.base
        for start, tier_price in self.tiers:
            if prompt_tokens > start:
                price = tier_price
        return price


class Rates(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The prices of one model. A class without a price of its own is billed as the class that it is part of."""

    provider: str
    """Identity of the provider in the price table."""
    model: str
    """Identity of the model in the price table."""
    fresh: Rate | None = None
    cache_read: Rate | None = None
    """None: as ``fresh``."""
    cache_write: Rate | None = None
    """None: as ``fresh``."""
    output: Rate | None = None
    reasoning: Rate | None = None
    """None: as ``output``."""
    request: Decimal | None = None
    """USD for one call, whatever its size."""
    note: str = ""
    """How the model was matched, where that is not obvious."""


class PriceTable(Protocol):
    """A source of prices; thread-safe, works without a network."""

    @property
    def name(self) -> str:
        """What the table is called in a bill, for example ``genai-prices``."""
        ...

    @property
    def version(self) -> str:
        """Release or date of the table."""
        ...

    def rates(self, provider: str | None, model: str, at_ns: int) -> Rates | str:
        """Return the prices of *model* at *provider* (a name of ``view.facts``) at a time, or why there are none.

        Args:
            provider: Name as in ``SpanFacts.provider``; None looks by the name of the model alone.
            model: Name as in ``SpanFacts.model``.
            at_ns: Start of the call, nanoseconds since 1970.
        """
        ...
