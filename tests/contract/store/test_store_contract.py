"""Every backend keeps every promise of the store contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
from agentlightning.testing.store_contract import STORE_CONTRACT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentlightning.store import LightningStore
    from agentlightning.testing.store_contract import Promise

BACKENDS = ["memory", "sqlite"]


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LightningStore]:
    """Return an empty store of each backend."""
    kind: str = request.param
    opened = InMemoryLightningStore() if kind == "memory" else SqliteLightningStore(tmp_path / "store.db")
    yield opened
    opened.close()


@pytest.mark.parametrize("promise", STORE_CONTRACT, ids=[promise.__name__ for promise in STORE_CONTRACT])
async def test_store_keeps_its_promise(promise: Promise, store: LightningStore) -> None:
    """The store keeps the promise that the check names."""
    await promise(store)
