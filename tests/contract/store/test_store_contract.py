"""Every backend keeps every promise of the store contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentlightning.store import (
    InMemoryLightningStore,
    LightningStoreClient,
    LightningStoreServer,
    LightningStoreThreaded,
    SqliteLightningStore,
)
from agentlightning.testing.store_contract import STORE_CONTRACT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentlightning.store import LightningStore
    from agentlightning.testing.store_contract import Promise

BACKENDS = ["memory", "sqlite", "threaded memory", "client of memory", "client of sqlite"]


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LightningStore]:
    """Return an empty store of each backend."""
    kind: str = request.param
    opened = SqliteLightningStore(tmp_path / "store.db") if "sqlite" in kind else InMemoryLightningStore()
    if kind.startswith("threaded"):
        threaded = LightningStoreThreaded(opened)
        yield threaded
        threaded.close()
    elif kind.startswith("client"):
        with LightningStoreServer(opened, "127.0.0.1", 0) as server:
            client = LightningStoreClient(server.endpoint)
            yield client
            client.close()
    else:
        yield opened
        opened.close()


@pytest.mark.parametrize("promise", STORE_CONTRACT, ids=[promise.__name__ for promise in STORE_CONTRACT])
async def test_store_keeps_its_promise(promise: Promise, store: LightningStore) -> None:
    """The store keeps the promise that the check names."""
    await promise(store)
