"""Totals of a rollout: noted with its attempt when it has ended, computed from its spans until then."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from agentlightning.view.tree import Totals

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Attempt


def to_metadata(totals: Totals) -> dict[str, object]:
    """Return *totals* as plain data; the cost is exact text."""
    return {
        name: str(value) if isinstance(value, Decimal) else value
        for name, value in msgspec.structs.asdict(totals).items()
    }


def from_metadata(metadata: dict[str, object] | None) -> Totals | None:
    """Return the totals that were noted, or None when there are none or they are of another release."""
    try:
        return msgspec.convert((metadata or {}).get("totals"), Totals, strict=False)
    except msgspec.ValidationError:
        return None


async def totals_of(store: LightningStore, rollout_id: str, attempt: Attempt | None) -> Totals:
    """Return the totals of a rollout's latest attempt."""
    noted = from_metadata(attempt.metadata if attempt else None)
    if noted is not None:
        return noted
    # Prices take 100 ms to load: not for a list of rollouts that have noted their totals.
    from agentlightning.view.cost import price  # noqa: PLC0415 - see above
    from agentlightning.view.summary import summary  # noqa: PLC0415 - see above

    return summary(await store.query_span_rows(rollout_id, "latest"), price=price).totals
