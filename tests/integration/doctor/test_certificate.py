"""A server behind a certificate: trusted or not, agl doctor says which file decides."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from agentlightning.server.launcher import LightningStoreServer, ServerOptions
from agentlightning.store import InMemoryLightningStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.doctor.conftest import Doctor

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")


def test_certificate_is_trusted_or_not(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody vouches for is a problem with the variable as remedy; named there, it is well."""
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    server = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    server.options = ServerOptions(port=0, tls_cert=cert, tls_key=key)
    with server as running:
        monkeypatch.setenv("AGL_STORE", running.endpoint)
        monkeypatch.setenv("AGL_HTTP_RETRIES", "0")
        row = doctor()["certificate"]
        assert (row.level, row.remedy) == ("fail", "export AGL_STORE_CA=issuer.pem")
        monkeypatch.setenv("AGL_STORE_CA", cert)
        rows = doctor()
        assert (rows["certificate"].level, rows["store"].level) == ("ok", "ok")
        assert rows["certificate"].found == f"trusted by {cert}"
