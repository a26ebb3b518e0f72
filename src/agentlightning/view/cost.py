"""What an LLM call cost: tokens by class times the price of the class, with where the price came from.

Amounts are exact decimals: the total of a call is the sum of its parts to the last digit, and the total of a rollout
the sum of its calls. What cannot be priced has no amount and a reason, never 0.
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentlightning.types.query import SpanFacts
    from agentlightning.view.rate import PriceTable, Rates

USD_PER_TOKEN_LIMIT = 1
"""More US dollars a token than this is an error of a price or of a count; the price is marked ``suspicious``."""

# The sum of 10^9 calls of 10^12 tokens at a price of 12 digits still fits: nothing is ever rounded. Not the thread's
# context, whose precision belongs to the user.
_EXACT = Context(prec=100)
_ESTIMATE = Context(prec=15)
_PER_MILLION = -6
ZERO = Decimal(0)


class Amount(msgspec.Struct, frozen=True, gc=False):
    """One line of a bill: ``usd = quantity * usd_per_million / 1,000,000``, exactly."""

    token_class: str
    """``fresh cache_read cache_write output reasoning``, or ``request`` for the price of the call itself."""
    quantity: int
    usd_per_million: Decimal
    usd: Decimal


class Price(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one call cost and how that is known."""

    usd: Decimal | None = None
    """Sum of the amounts; None where the cost is unknown."""
    amounts: tuple[Amount, ...] = ()
    reason: str = ""
    """Why the cost is unknown; empty where it is known."""
    source: str = ""
    """Name of the price table."""
    version: str = ""
    """Release or date of the price table."""
    provider: str = ""
    """Provider that was matched in the table."""
    model: str = ""
    """Model that was matched in the table."""
    note: str = ""
    """What a reader should know about how the price was found."""
    reported_usd: float | None = None
    """What the provider or the instrumentor said, beside our own figure and never mixed with it."""
    suspicious: bool = False
    """The cost, ours or the reported one, is above ``USD_PER_TOKEN_LIMIT`` for each token."""


def price(facts: SpanFacts, at_ns: int, table: PriceTable | None = None) -> Price:
    """Return what the call with *facts* that started at *at_ns* cost by *table*.

    Args:
        facts: Facts of a span of kind ``llm`` or ``embedding``; any other kind has no cost of its own.
        at_ns: Start of the call, nanoseconds since 1970; prices have dates, and some have hours.
        table: Where prices come from; None is the table inside the package ``genai-prices``, never the network. A
            model that was priced before on this machine is found in a small file (``view.price_cache``), the first
            call of any other loads the package (0.2 to 0.4 s).
    """
    if table is None:
        from agentlightning.view.price_cache import cached_prices  # noqa: PLC0415 - readers only

        table = cached_prices()
    reason = _unusable(facts)
    if reason:
        return Price(reason=reason, reported_usd=facts.reported_cost, suspicious=_too_much(facts.reported_cost, facts))
    found = table.rates(facts.provider, facts.model or "", at_ns)
    if isinstance(found, str):
        return _unknown(facts, table, found)
    amounts, reason = _amounts(facts, found)
    if reason:
        return _unknown(facts, table, reason)
    usd = total([amount.usd for amount in amounts])
    return Price(
        usd=usd,
        amounts=amounts,
        source=table.name,
        version=table.version,
        provider=found.provider,
        model=found.model,
        note=found.note,
        reported_usd=facts.reported_cost,
        suspicious=_too_much(usd, facts) or _too_much(facts.reported_cost, facts),
    )


def _unknown(facts: SpanFacts, table: PriceTable, reason: str) -> Price:
    return Price(
        reason=reason,
        source=table.name,
        version=table.version,
        reported_usd=facts.reported_cost,
        suspicious=_too_much(facts.reported_cost, facts),
    )


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum of *amounts*, whatever precision the current thread computes with."""
    result = ZERO
    for amount in amounts:
        result = _EXACT.add(result, amount)
    return result


def times(amount: Decimal, factor: float) -> Decimal:
    """Return *amount* so many times, for estimates: rounded to 15 digits, as the factor is."""
    return _ESTIMATE.multiply(amount, Decimal(repr(factor)))


def plus(left: Decimal, right: Decimal) -> Decimal:
    """Return the exact sum of two amounts."""
    return _EXACT.add(left, right)


def _unusable(facts: SpanFacts) -> str:
    """Say why *facts* cannot be priced by any table; empty when they can."""
    if facts.kind not in ("llm", "embedding"):
        return f"a span of kind {facts.kind} has no cost of its own"
    if not facts.model:
        return "the model is unknown"
    if facts.fresh_tokens is None and facts.output_tokens is None:
        return "no token counts were reported"
    if facts.fresh_tokens is None:
        return "no prompt token count was reported"
    if facts.output_tokens is None and facts.kind == "llm":
        return "no output token count was reported"
    return ""


def _amounts(facts: SpanFacts, rates: Rates) -> tuple[tuple[Amount, ...], str]:
    """Return the lines of the bill, or the reason why there are none."""
    fresh, read, write = facts.fresh_tokens or 0, facts.cache_read_tokens or 0, facts.cache_write_tokens or 0
    output = facts.output_tokens or 0
    # Reasoning is a part of the output; it has a line of its own only where it has a price of its own.
    thought = min(facts.reasoning_tokens or 0, output) if rates.reasoning else 0
    prompt_tokens = fresh + read + write
    lines: list[Amount] = []
    for token_class, tokens, rate in (
        ("fresh", fresh, rates.fresh),
        ("cache_read", read, rates.cache_read or rates.fresh),
        ("cache_write", write, rates.cache_write or rates.fresh),
        ("output", output - thought, rates.output),
        ("reasoning", thought, rates.reasoning),
    ):
        if rate is None:
            if tokens:
                return (), f"{rates.provider} has no price for {token_class} tokens of {rates.model}"
            continue
        if tokens or token_class in ("fresh", "output"):
            lines.append(_line(token_class, tokens, rate.at(prompt_tokens)))
    if not lines:
        return (), f"{rates.provider} does not bill {rates.model} by tokens"
    if rates.request:
        lines.append(_line("request", 1, rates.request.scaleb(-_PER_MILLION, _EXACT)))
    return tuple(lines), ""


def _line(token_class: str, quantity: int, usd_per_million: Decimal) -> Amount:
    usd = _EXACT.multiply(Decimal(quantity), usd_per_million).scaleb(_PER_MILLION, _EXACT)
    return Amount(token_class, quantity, usd_per_million, usd)


def _too_much(usd: Decimal | float | None, facts: SpanFacts) -> bool:
    if usd is None:
        return False
    tokens = (facts.fresh_tokens or 0) + (facts.cache_read_tokens or 0) + (facts.cache_write_tokens or 0)
    tokens += facts.output_tokens or 0
    return 0 < tokens * USD_PER_TOKEN_LIMIT < usd
