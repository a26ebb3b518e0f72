"""Numbers, durations and money as the terminal shows them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.view.tree import Totals

_MINUTE_S = 60
_HOUR_S = 3600


def count(number: int) -> str:
    """Return 1234567 as ``1,234,567``."""
    return f"{number:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return ``1 span`` or ``2 spans``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def dollars(totals: Totals, *, short: bool = False) -> str:
    """Return the cost of *totals*: never 0 for what is unknown, and a lower bound said as one."""
    if not totals.cost_known and not totals.cost_unknown:
        return "-" if short else "no cost"
    if not totals.cost_known:
        return "unknown" if short else "cost unknown"
    if short:
        return money(totals.cost) + ("+?" if totals.cost_unknown else "")
    more = f" (+{count(totals.cost_unknown)} unknown)" if totals.cost_unknown else ""
    return money(totals.cost) + more


def money(amount: Decimal) -> str:
    """Return an amount of USD with as many digits as its size needs."""
    if amount == 0:
        return "$0"
    digits = 2 if amount >= 1 else 4
    if amount < Decimal("0.0001"):
        digits = max(6, -amount.adjusted() + 1)
    return f"${amount:,.{digits}f}"


def duration(nanoseconds: int) -> str:
    """Return a duration with three digits: ``12 ms``, ``1.25 s``, ``3m 20s``, ``2h 05m``."""
    seconds = nanoseconds / 1e9
    if seconds < 1e-3:  # noqa: PLR2004 - a millisecond
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"  # noqa: PLR2004 - digits
    if seconds < _HOUR_S:
        return f"{int(seconds // 60)}m {int(seconds % 60):02d}s"
    return f"{int(seconds // 3600)}h {int(seconds % 3600 // 60):02d}m"
