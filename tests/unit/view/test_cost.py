"""Prices: exact, explained, and never made up."""

from __future__ import annotations

import json
import socket
from datetime import datetime, timezone
from decimal import Decimal, getcontext, localcontext
from typing import TYPE_CHECKING, Any

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import SettingError
from agentlightning.types.query import SpanFacts
from agentlightning.view.cost import price, total
from agentlightning.view.prices import JsonPrices, bundled_prices
from agentlightning.view.rate import Rate, Rates

if TYPE_CHECKING:
    from pathlib import Path

NOW_NS = 1_763_700_000 * 10**9


def call(**changes: Any) -> SpanFacts:
    """Return the facts of a call of gpt-4o."""
    values: dict[str, Any] = {
        "kind": "llm",
        "model": "gpt-4o",
        "provider": "openai",
        "fresh_tokens": 800,
        "cache_read_tokens": 200,
        "output_tokens": 50,
    }
    return SpanFacts(**(values | changes))


class Table:
    """A price table with the same rates for every model."""

    name = "mine"
    version = "7"

    def __init__(self, rates: Rates | str) -> None:
        self._rates = rates

    def rates(self, provider: str | None, model: str, at_ns: int) -> Rates | str:
        """Return the rates."""
        return self._rates


def test_a_known_model_has_a_bill_with_provenance() -> None:
    """Amount by class, rate, total, table, release, provider and model are all there."""
    found = price(call(), NOW_NS)
    assert found.usd == Decimal("0.00275")
    lines = [(line.token_class, line.quantity, line.usd_per_million) for line in found.amounts]
    assert lines == [("fresh", 800, Decimal("2.5")), ("cache_read", 200, Decimal("1.25")), ("output", 50, Decimal(10))]
    assert (found.source, found.provider, found.model, found.reason) == ("genai-prices", "openai", "gpt-4o", "")
    assert found.version


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, "the model is unknown"),
        ({"model": "no-such-model"}, "no price for the model no-such-model of openai"),
        ({"provider": "fireworks"}, "no price for the model gpt-4o of fireworks"),
        ({"provider": "vllm"}, "no price table has the provider vllm"),
        ({"fresh_tokens": None, "output_tokens": None}, "no token counts were reported"),
        ({"output_tokens": None}, "no output token count was reported"),
        ({"fresh_tokens": None}, "no prompt token count was reported"),
        ({"kind": "agent"}, "a span of kind agent has no cost of its own"),
    ],
)
def test_what_cannot_be_priced_has_a_reason_and_no_amount(changes: dict[str, Any], reason: str) -> None:
    """Unknown is unknown, never 0; what the provider reported stays beside it."""
    found = price(call(reported_cost=0.5, **changes), NOW_NS)
    assert (found.usd, found.reason, found.reported_usd, found.amounts) == (None, reason, 0.5, ())


def test_an_embedding_needs_no_output() -> None:
    """Embedding calls report prompt tokens only."""
    found = price(
        call(kind="embedding", model="text-embedding-3-small", cache_read_tokens=None, output_tokens=None), NOW_NS
    )
    assert found.usd == Decimal("0.000016")


@given(
    counts=st.tuples(*[st.integers(0, 10**12)] * 5),
    rates=st.tuples(*[st.decimals(0, 10**4, places=12)] * 6),
    own=st.tuples(*[st.booleans()] * 3),
    digits=st.integers(1, 60),
)
def test_a_total_is_the_sum_of_its_parts_to_the_last_digit(
    counts: tuple[int, ...], rates: tuple[Decimal, ...], own: tuple[bool, ...], digits: int
) -> None:
    """Each amount is quantity times rate exactly, the total their sum exactly, in whatever precision the thread is."""
    table = Table(
        Rates(
            provider="p",
            model="m",
            fresh=Rate(rates[0]),
            cache_read=Rate(rates[1]) if own[0] else None,
            cache_write=Rate(rates[2]) if own[1] else None,
            output=Rate(rates[3]),
            reasoning=Rate(rates[4]) if own[2] else None,
            request=rates[5],
        )
    )
    facts = SpanFacts(
        kind="llm",
        model="m",
        fresh_tokens=counts[0],
        cache_read_tokens=counts[1],
        cache_write_tokens=counts[2],
        output_tokens=counts[3],
        reasoning_tokens=min(counts[3], counts[4]),
    )
    with localcontext() as context:
        context.prec = digits
        found = price(facts, NOW_NS, table)
    getcontext().prec = 200
    assert found.usd is not None
    assert (
        found.usd == sum((line.usd for line in found.amounts), Decimal(0)) == total(line.usd for line in found.amounts)
    )
    for line in found.amounts:
        assert line.usd * 10**6 == line.quantity * line.usd_per_million
    tokens = sum(line.quantity for line in found.amounts if line.token_class != "request")
    assert tokens == sum(counts[:4])


def _models() -> list[tuple[str, str]]:
    """Return provider and model of every model of the table that has a name to find it by."""
    return [(provider.id, model.id) for provider in get_snapshot().providers for model in provider.models]


def test_our_sum_is_that_of_genai_prices_for_every_model() -> None:
    """Splitting a bill by class changes no total: compared with the package's own sum, above and below its tiers."""
    compared = 0
    at = datetime.fromtimestamp(NOW_NS / 10**9, tz=timezone.utc)
    for provider, model in _models():
        for scale in (1, 1000):  # below and above the tiers
            fresh, read, write, output = 300 * scale, 200 * scale, 100 * scale, 50 * scale
            facts = call(provider=provider, model=model, fresh_tokens=fresh, cache_read_tokens=read)
            facts.cache_write_tokens, facts.output_tokens = write, output
            found = price(facts, NOW_NS)
            if found.usd is None:
                continue
            usage = Usage(
                input_tokens=fresh + read + write,
                cache_read_tokens=read,
                cache_write_tokens=write,
                output_tokens=output,
            )
            theirs = calc_price(usage, model, provider_id=provider, genai_request_timestamp=at)
            assert abs(theirs.total_price - found.usd) <= Decimal("1e-15"), (provider, model)
            compared += 1
    assert compared > 1000


def test_a_tier_applies_to_the_whole_prompt() -> None:
    """Above the start of a tier all tokens pay its price; at the start they do not."""
    rate = Rate(Decimal(1), ((200_000, Decimal(2)), (500_000, Decimal(3))))
    assert [rate.at(n) for n in (0, 200_000, 200_001, 500_001)] == [1, 1, 2, 3]
    table = Table(Rates(provider="p", model="m", fresh=rate, output=Rate(Decimal(0))))
    found = price(call(fresh_tokens=150_000, cache_read_tokens=60_000), NOW_NS, table)
    assert found.usd == Decimal("0.42")


def test_a_class_without_any_price_makes_the_cost_unknown() -> None:
    """A model without an output price did not answer for free."""
    found = price(call(), NOW_NS, Table(Rates(provider="p", model="m", fresh=Rate(Decimal(1)))))
    assert (found.usd, found.reason) == (None, "p has no price for output tokens of m")
    found = price(
        call(fresh_tokens=0, output_tokens=0, cache_read_tokens=0), NOW_NS, Table(Rates(provider="p", model="m"))
    )
    assert found.reason == "p does not bill m by tokens"


@pytest.mark.parametrize(
    ("provider", "model", "matched", "note"),
    [
        (None, "gpt-4o", "openai", "provider unknown: price of the maker of the model"),
        ("openai", "openai/gpt-4o", "openai", "provider taken from the name openai/gpt-4o"),
        (None, "anthropic/claude-sonnet-4-5", "anthropic", "provider taken from the name anthropic/claude-sonnet-4-5"),
        ("openai", "deepseek-chat", "deepseek", "not found at openai: price of the maker of the model"),
        ("my-gateway", "gpt-4o", "openai", "not found at my-gateway: price of the maker of the model"),
        ("azure", "gpt-4o-2024-08-06", "azure", ""),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "aws", ""),
        ("google", "gemini-2.5-pro", "google", ""),
    ],
)
def test_provider_matching_is_said(provider: str | None, model: str, matched: str, note: str) -> None:
    """Where the provider had to be guessed, the price says so."""
    found = price(call(provider=provider, model=model), NOW_NS)
    assert (found.provider, found.note) == (matched, note)
    assert found.usd


@pytest.mark.parametrize("provider", ["ollama", "vllm", "sglang"])
def test_a_model_of_ones_own_machine_has_no_price(provider: str) -> None:
    """What one runs oneself is not priced by the name of its model."""
    assert price(call(provider=provider), NOW_NS).usd is None
    assert price(call(provider=None, model=f"{provider}/gpt-4o"), NOW_NS).usd is None


@pytest.mark.parametrize("at_ns", [-(10**30), 10**30])
def test_an_impossible_time_is_no_error(at_ns: int) -> None:
    """A clock gone wild makes the cost unknown."""
    assert price(call(), at_ns).reason == "the time of the call is out of range"


def test_more_than_a_dollar_a_token_is_suspicious() -> None:
    """A token count in a field for dollars is noticed, whoever wrote it."""
    assert price(call(reported_cost=1051.0), NOW_NS).suspicious
    assert not price(call(reported_cost=1049.0), NOW_NS).suspicious
    dear = Table(Rates(provider="p", model="m", fresh=Rate(Decimal(10**7)), output=Rate(Decimal(0))))
    assert price(call(), NOW_NS, dear).suspicious


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices come from the disk: a process without a network gets the same."""

    def refuse(*_args: object, **_more: object) -> None:
        pytest.fail("somebody opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    bundled_prices.cache_clear()
    assert price(call(), NOW_NS).usd == Decimal("0.00275")


def test_prices_have_dates() -> None:
    """A price that began on a day holds from that day on."""
    o3 = [
        price(call(model="o3"), int(datetime(2025, month, 1, tzinfo=timezone.utc).timestamp()) * 10**9).usd
        for month in (5, 7)
    ]
    assert o3[0] is not None
    assert o3[1] is not None
    assert o3[0] > o3[1]


def write(path: Path, content: object) -> Path:
    """Write *content* as JSON and return the path."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    """A JSON file gives prices by provider and model, by model, and by the beginning of a model's name."""
    models = {
        "gpt-4o": {"input": 1, "output": 2.5, "cache_read": 0},
        "azure/gpt-4o": {"input": 3, "output": 3, "request": 1},
    }
    table = JsonPrices(write(tmp_path / "p.json", {"name": "contract", "date": "2026-11-01", "models": models}))
    found = price(call(model="gpt-4o-2024-08-06"), NOW_NS, table)
    assert (found.usd, found.model, found.source, found.version) == (
        Decimal("0.000925"),
        "gpt-4o",
        "contract",
        "2026-11-01",
    )
    assert price(call(provider="azure"), NOW_NS, table).usd == Decimal("1.00315")
    assert price(call(model="gpt-4omega"), NOW_NS, table).reason == "contract has no price for the model gpt-4omega"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"models": {"m": {"inptu": 1}}}',
        '{"models": {"m": {"input": -1}}}',
        '{"models": {"m": {"input": "NaN"}}}',
    ],
)
def test_a_bad_table_is_one_clear_error(tmp_path: Path, content: str) -> None:
    """A file that is no price table names itself in one line."""
    with pytest.raises(SettingError, match=r"p\.json is no price table"):
        JsonPrices(write(tmp_path / "p.json", content))
    with pytest.raises(SettingError, match="Cannot read the price table"):
        JsonPrices(tmp_path / "missing.json")
