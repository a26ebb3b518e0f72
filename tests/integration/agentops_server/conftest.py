"""A server of the protocol in this process, and a certificate."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from agentlightning.instrumentation.agentops_server import AgentOpsServerOptions
from agentlightning.store import open_store
from agentlightning.testing.agentops import Server, serving

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
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return cert, key
