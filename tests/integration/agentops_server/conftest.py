"""A server of the protocol in this process, and a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentlightning.instrumentation.agentops_server import AgentOpsServerOptions
from agentlightning.store import open_store
from agentlightning.testing.agentops import Server, make_certificate, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server(isolated: Path) -> Iterator[Server]:
    """Serve a store of the test."""
    store = open_store(str(isolated / "served.db"))
    with serving(AgentOpsServerOptions(), store) as running:
        yield running
    store.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return a certificate for this machine, which is its own issuer, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
