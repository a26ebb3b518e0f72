"""Price tables: the one inside the package ``genai-prices``, and a JSON file of one's own."""

from __future__ import annotations

import re
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agentlightning.errors import SettingError
from agentlightning.view.facts import provider_name
from agentlightning.view.rate import Rate, Rates

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

_MINUTE_NS = 60 * 10**9
_RELEASE = re.compile(r"[-@:](v?\d[\d.v:-]*|latest|preview)")
"""What may follow the name of a model in the name of one of its releases."""
_FIRST_DAY = date(1970, 1, 1)
_ALWAYS = (-719_162 * 24 * 60, 2_932_897 * 24 * 60)
"""Minutes since 1970 of the years 1 to 9999: a price without dates holds from the first to before the second."""
# Programs that one runs oneself: the name of the model says nothing about what the machine costs.
_SELF_HOSTED = frozenset({"ollama", "vllm", "sglang", "lm-studio", "llamafile", "llama-cpp", "mlx", "transformers"})


class BundledPrices:
    """The prices inside the installed package ``genai-prices``; thread-safe, never fetches anything.

    The package is asked through its public ``calc_price``, once for a model, provider and minute; prices of models
    whose rate depends on the size of the prompt come as tiers, and the highest tier that the prompt passes applies to
    all tokens. Cached tokens without a price of their own are billed as prompt tokens, reasoning tokens as output
    tokens: both as ``genai-prices`` does.
    """

    def __init__(self) -> None:
        """Import the package and its table; about 0.4 s."""
        from importlib.metadata import version  # noqa: PLC0415 - with the package, not before

        import genai_prices  # noqa: PLC0415 - 0.4 s and pydantic: only where a bill is made
        from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

        self._calc = genai_prices.calc_price
        self._find_provider = get_snapshot().find_provider
        self._no_usage = genai_prices.Usage(input_tokens=0, output_tokens=0)
        self._version = version("genai-prices")
        self._cached = lru_cache(maxsize=4096)(self.lookup)

    @property
    def name(self) -> str:
        """``genai-prices``."""
        return "genai-prices"

    @property
    def version(self) -> str:
        """Release of the package."""
        return self._version

    def rates(self, provider: str | None, model: str, at_ns: int) -> Rates | str:
        """Return the prices of *model*, or why there are none; see ``PriceTable``."""
        # By the minute: some prices begin on a day, some hold at certain hours.
        return self._cached(provider, model, at_ns // _MINUTE_NS)[0]

    def lookup(self, provider: str | None, model: str, minute: int) -> tuple[Rates | str, int, int]:
        """Return what ``rates`` does for a minute since 1970, the first minute of which that holds, and of which not.

        Where a price depends on the hour, it is said to hold for this minute only.
        """
        try:
            at = datetime.fromtimestamp(minute * 60, tz=timezone.utc)
        except (OverflowError, ValueError, OSError):
            return "the time of the call is out of range", minute, minute + 1
        if provider in _SELF_HOSTED:
            return f"no price table has the provider {provider}", *_ALWAYS
        for candidate, name, note in self._candidates(provider, model):
            try:
                found = self._calc(self._no_usage, name, provider_id=candidate, genai_request_timestamp=at)
            except LookupError:
                continue
            return _rates(found, note), *_period(found, minute)
        return f"no price for the model {model}" + (f" of {provider}" if provider else ""), *_ALWAYS

    def _candidates(self, provider: str | None, model: str) -> list[tuple[str | None, str, str]]:
        """Return what to look for, best first: provider, model, and a note where the match needs one."""
        first, slash, rest = model.partition("/")
        candidates: list[tuple[str | None, str, str]] = []
        if provider is not None:
            candidates.append((provider, model, ""))
        if slash and rest and (prefix := provider_name(first)) is not None and prefix not in _SELF_HOSTED:
            # "openai/gpt-4o", "openrouter/anthropic/claude-4": the way routers name a model.
            candidates.append((prefix, rest, f"provider taken from the name {model}"))
        if not slash and not self._bills_for_itself(provider):
            note = "provider unknown" if provider is None else f"not found at {provider}"
            candidates.append((None, model, f"{note}: price of the maker of the model"))
        return candidates

    def _bills_for_itself(self, provider: str | None) -> bool:
        """Whether the table knows what *provider* charges, so that another's price for the same model is wrong.

        ``openai`` is also what instrumentors write for every server that speaks its protocol.
        """
        if provider is None or provider == "openai":
            return False
        try:
            self._find_provider(None, provider, None)
        except LookupError:
            return False
        return True


def _period(found: PriceCalculation, minute: int) -> tuple[int, int]:
    """Return from which minute to which the price that was found for *minute* is the same."""
    from genai_prices.types import StartDateConstraint  # noqa: PLC0415 - loaded by now

    prices = found.model.prices
    if not isinstance(prices, list):
        return _ALWAYS
    begin, end = _ALWAYS
    for price in prices:
        if price.constraint is None:
            continue
        if not isinstance(price.constraint, StartDateConstraint):
            return minute, minute + 1
        start = (price.constraint.start_date - _FIRST_DAY).days * 24 * 60
        if start <= minute:
            begin = max(begin, start)
        else:
            end = min(end, start)
    return begin, end


def _rates(found: PriceCalculation, note: str) -> Rates:
    per_thousand: object = getattr(found.model_price, "requests_kcount", None)
    return Rates(
        provider=found.provider.id,
        model=found.model.id,
        fresh=_rate(getattr(found.model_price, "input_mtok", None)),
        cache_read=_rate(getattr(found.model_price, "cache_read_mtok", None)),
        cache_write=_rate(getattr(found.model_price, "cache_write_mtok", None)),
        output=_rate(getattr(found.model_price, "output_mtok", None)),
        reasoning=_rate(getattr(found.model_price, "output_reasoning_mtok", None)),
        request=per_thousand.scaleb(-3) if isinstance(per_thousand, Decimal) else None,
        note=note,
    )


def _rate(price: object) -> Rate | None:
    from genai_prices.types import TieredPrices  # noqa: PLC0415 - loaded by now

    if isinstance(price, Decimal):
        return Rate(price)
    if isinstance(price, TieredPrices):
        return Rate(price.base, tuple((tier.start, tier.price) for tier in price.tiers))
    return None


@lru_cache(maxsize=1)
def bundled_prices() -> BundledPrices:
    """Return the one table of the package ``genai-prices`` in this process."""
    return BundledPrices()


class _FileRates(msgspec.Struct, forbid_unknown_fields=True):
    """One model of a price file; USD for one million tokens."""

    input: Decimal | None = None
    output: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    request: Decimal | None = None
    """USD for one call."""


class _PriceFile(msgspec.Struct, forbid_unknown_fields=True):
    models: dict[str, _FileRates]
    name: str = ""
    date: str = ""


class JsonPrices:
    """A price table of one's own, for bills with other prices; thread-safe.

    The file is JSON: ``{"name": "contract 7", "date": "2026-11-01", "models": {"gpt-4o": {"input": 2.5, "output": 10,
    "cache_read": 1.25}, "azure/gpt-4o": {...}}}``. Prices are USD for one million tokens of the class (``input``,
    ``output``, ``cache_read``, ``cache_write``, ``reasoning``) and for one call (``request``). A model is looked up as
    ``provider/model``, then as ``model``, exactly, then as the longest name that the model begins with followed by a
    release (so ``gpt-4o`` prices ``gpt-4o-2024-08-06`` and ``gpt-4o-latest``, but not ``gpt-4o-mini``).
    """

    def __init__(self, path: Path | str) -> None:
        """Read the table.

        Raises:
            SettingError: The file cannot be read or is no price table.
        """
        path = Path(path)
        try:
            read = msgspec.json.decode(path.read_bytes(), type=_PriceFile)
        except OSError as error:
            message = f"Cannot read the price table {path}: {error.strerror}"
            raise SettingError(message) from error
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            message = f"{path} is no price table: {error}"
            raise SettingError(message) from error
        self._models = {name.lower(): rates for name, rates in read.models.items()}
        for name, rates in self._models.items():
            if any(
                value is not None and not (value.is_finite() and value >= 0) for value in msgspec.structs.astuple(rates)
            ):
                message = f"{path} is no price table: a price of {name} is negative or not finite"
                raise SettingError(message)
        self._name = read.name or path.name
        self._version = read.date

    @property
    def name(self) -> str:
        """Name inside the file, else the name of the file."""
        return self._name

    @property
    def version(self) -> str:
        """Date inside the file, or empty."""
        return self._version

    def rates(self, provider: str | None, model: str, at_ns: int) -> Rates | str:  # noqa: ARG002 - no dated prices here
        """Return the prices of *model*, or why there are none; see ``PriceTable``."""
        name = self._match(model.lower(), provider)
        if name is None:
            return f"{self._name} has no price for the model {model}"
        found = self._models[name]
        return Rates(
            provider=provider or "",
            model=name,
            fresh=_file_rate(found.input),
            cache_read=_file_rate(found.cache_read),
            cache_write=_file_rate(found.cache_write),
            output=_file_rate(found.output),
            reasoning=_file_rate(found.reasoning),
            request=found.request,
        )

    def _match(self, model: str, provider: str | None) -> str | None:
        wanted = ([f"{provider}/{model}"] if provider else []) + [model]
        for name in wanted:
            if name in self._models:
                return name
        for name in wanted:
            fits = [
                known for known in self._models if name.startswith(known) and _RELEASE.fullmatch(name[len(known) :])
            ]
            if fits:
                return max(fits, key=len)
        return None


def _file_rate(price: Decimal | None) -> Rate | None:
    return None if price is None else Rate(price)
