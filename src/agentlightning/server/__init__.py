"""The store behind HTTP: the application, who may call it, and the server that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_names

if TYPE_CHECKING:
    from agentlightning.server.app import create_app
    from agentlightning.server.launcher import LightningStoreServer

__all__ = ["LightningStoreServer", "create_app"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"LightningStoreServer": "agentlightning.server.launcher", "create_app": "agentlightning.server.app"},
)
