"""The file of prices that were looked up before: right, private, and never in the way."""

from __future__ import annotations

import stat
import subprocess
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from agentlightning.view.price_cache import MAX_ENTRIES, CachedPrices
from agentlightning.view.prices import bundled_prices

if TYPE_CHECKING:
    from pathlib import Path

NOW_NS = 1_795_000_000 * 10**9
MODELS = [
    ("openai", "gpt-4o"),
    ("anthropic", "claude-sonnet-4-5"),
    (None, "gpt-4o-mini"),
    ("vllm", "x"),
    ("openai", "?"),
]


def ns(text: str) -> int:
    """Return a UTC date as nanoseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()) * 10**9


def test_a_second_process_gets_the_same_prices_without_the_package(tmp_path: Path) -> None:
    """What was priced once is priced the same by a fresh process that does not import genai-prices."""
    path = tmp_path / "cache" / "prices.json"
    first = CachedPrices(path)
    wanted = [first.rates(provider, model, NOW_NS) for provider, model in MODELS]
    assert wanted == [bundled_prices().rates(provider, model, NOW_NS) for provider, model in MODELS]
    script = f"""
import sys
from pathlib import Path
from agentlightning.view.price_cache import CachedPrices
table = CachedPrices(Path({str(path)!r}))
print([table.rates(provider, model, {NOW_NS}) for provider, model in {MODELS!r}] , table.version)
assert not any(name.startswith("genai_prices") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{wanted} {first.version}"


def test_every_model_of_the_table_has_the_right_price_at_every_time(tmp_path: Path) -> None:
    """A price that begins on a day, or holds at some hours, is never taken for another time."""
    from genai_prices import data

    table = CachedPrices(None)
    times = [
        ns(f"{year}-{month:02}-11T{hour:02}:30:00")
        for year in (2024, 2025, 2026)
        for month in (2, 9)
        for hour in (1, 13)
    ]
    dated = [(p.id, m.id) for p in data.providers for m in p.models if isinstance(m.prices, list)]
    assert len(dated) > 10
    for provider, model in dated[::3]:
        for at_ns in times:
            assert table.rates(provider, model, at_ns) == bundled_prices().rates(provider, model, at_ns)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"table": "other", "version": "1", "entries": []}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    """A file that is damaged, or of another table, changes no price and is written anew."""
    path = tmp_path / "prices.json"
    path.write_bytes(content)
    table = CachedPrices(path)
    assert table.rates("openai", "gpt-4o", NOW_NS) == bundled_prices().rates("openai", "gpt-4o", NOW_NS)
    assert b"gpt-4o" in path.read_bytes()


def test_the_file_is_private_and_bounded(tmp_path: Path) -> None:
    """Only its owner can read the file, and made-up names of models do not make it grow for ever."""
    path = tmp_path / "prices.json"
    table = CachedPrices(path)
    table.rates("openai", "gpt-4o", NOW_NS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    memory = CachedPrices(None)
    for number in range(MAX_ENTRIES + 10):
        memory.rates("vllm", f"model-{number}", NOW_NS)
    assert 0 < len(memory) <= MAX_ENTRIES


def test_no_place_for_the_file_costs_nothing_but_time(tmp_path: Path) -> None:
    """Where no file can be written, and for names that JSON cannot hold, prices come from the table."""
    (tmp_path / "file").write_text("")
    table = CachedPrices(tmp_path / "file" / "prices.json")
    assert table.rates("openai", "gpt-4o", NOW_NS) == bundled_prices().rates("openai", "gpt-4o", NOW_NS)
    odd = CachedPrices(tmp_path / "prices.json")
    assert isinstance(odd.rates("openai", "\ud800", NOW_NS), str)
