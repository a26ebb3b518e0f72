"""Where rollouts and spans are kept: one contract, the stores behind it, and how a URL names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentlightning._internal.lazy import lazy_names

if TYPE_CHECKING:
    from agentlightning.store.base import UNSET, LightningStore
    from agentlightning.store.client import LightningStoreClient
    from agentlightning.store.memory import InMemoryLightningStore
    from agentlightning.store.sql.manager import SqliteLightningStore
    from agentlightning.store.threading import LightningStoreThreaded
    from agentlightning.store.url import default_store_url, open_store

    LightningStoreServer: Any
    """Lies in a layer above, which an import here would pull down; ``agentlightning.server`` has it with its type."""

__all__ = [
    "UNSET",
    "InMemoryLightningStore",
    "LightningStore",
    "LightningStoreClient",
    "LightningStoreServer",
    "LightningStoreThreaded",
    "SqliteLightningStore",
    "default_store_url",
    "open_store",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "UNSET": "agentlightning.store.base",
        "InMemoryLightningStore": "agentlightning.store.memory",
        "LightningStore": "agentlightning.store.base",
        "LightningStoreClient": "agentlightning.store.client",
        "LightningStoreServer": "agentlightning.server.launcher",
        "LightningStoreThreaded": "agentlightning.store.threading",
        "SqliteLightningStore": "agentlightning.store.sql.manager",
        "default_store_url": "agentlightning.store.url",
        "open_store": "agentlightning.store.url",
    },
)
