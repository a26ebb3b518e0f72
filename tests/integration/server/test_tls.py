"""TLS: a certificate that is trusted works, one that is not is one clear line, and nothing is sent past it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from agentlightning import settings
from agentlightning.cli.main import main
from agentlightning.errors import AccessError, SettingError, StoreError, StoreUnavailableError
from agentlightning.server.forward import Forwarder, OtlpTarget
from agentlightning.server.launcher import LightningStoreServer, ServerOptions
from agentlightning.store import InMemoryLightningStore, LightningStoreClient
from agentlightning.store.url import open_writer
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


class Certificate(NamedTuple):
    """Files of a certificate and its key."""

    cert: str
    key: str


def certificate(folder: Path, name: str, subject: str) -> Certificate:
    """Make a certificate that is its own issuer, for *subject*."""
    made = Certificate(str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", made.key, "-out", made.cert, "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*command, "-addext", f"subjectAltName={subject}"], check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make a certificate for this machine's loopback address."""
    return certificate(tmp_path_factory.mktemp("tls"), "good", "IP:127.0.0.1")


def serving(files: Certificate) -> LightningStoreServer:
    """Return a server of an empty store behind a certificate."""
    made = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    made.options = ServerOptions(port=0, tls_cert=files.cert, tls_key=files.key)
    return made


@pytest.fixture
def served(good: Certificate) -> Iterator[LightningStoreServer]:
    """Serve an empty store over TLS."""
    with serving(good) as running:
        yield running


async def test_a_trusted_certificate_works(
    served: LightningStoreServer, good: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AGL_STORE_CA client, writer and forwarder reach a server over TLS."""
    monkeypatch.setenv("AGL_STORE_CA", good.cert)
    assert served.endpoint.startswith("https://")
    client, writer = LightningStoreClient(served.endpoint), open_writer(served.endpoint)
    assert writer.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 1)])).stored == 1
    assert [span.name for span in await client.query_spans("ro-1")] == [record_of("ro-1", "at-1", 1).name]
    target = OtlpTarget(served.endpoint, ca_file=good.cert)
    assert (await Forwarder(client, target).run_once()).sent == 1
    for opened in (client, writer, target):
        opened.close()


async def test_an_unknown_certificate_is_one_clear_line(
    served: LightningStoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its issuer, at once and without repetition: the address, what is wrong, and the setting that helps."""
    client = LightningStoreClient(served.endpoint)
    with pytest.raises(StoreUnavailableError, match=r"is not trusted: self.signed certificate.*AGL_STORE_CA"):
        await client.query_rollouts()
    client.close()
    source = InMemoryLightningStore()
    source.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 1)]))
    target = OtlpTarget(served.endpoint)
    with pytest.raises(AccessError, match=r"is not trusted: self.signed certificate.*--ca"):
        await Forwarder(source, target).run_once()
    target.close()


def test_commands_say_it_in_one_line(served: LightningStoreServer, capsys: pytest.CaptureFixture[str]) -> None:
    """``agl ls`` ends with 2 and one line, without a traceback."""
    with pytest.raises(SystemExit) as ended:
        main(["ls", "--store", served.endpoint])
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n"), "is not trusted" in said) == (2, 1, True)


async def test_a_certificate_of_another_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted issuer is not enough: the name must be that of the address."""
    other = certificate(tmp_path, "other", "DNS:elsewhere.example")
    monkeypatch.setenv("AGL_STORE_CA", other.cert)
    with serving(other) as running:
        client = LightningStoreClient(running.endpoint)
        with pytest.raises(StoreUnavailableError, match=r"is not trusted: .*127.0.0.1"):
            await client.query_rollouts()
        client.close()


def test_files_that_are_no_certificates_are_refused(
    tmp_path: Path, good: Certificate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server does not start with a broken certificate, and a client says which file it cannot read."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(SettingError, match=r"cannot use the certificate .*broken\.pem"):
        serving(Certificate(str(broken), good.key)).__enter__()
    with pytest.raises(SystemExit) as ended:
        main(["store", "serve", "--port", "0", "--tls-cert", str(broken), "--tls-key", good.key])
    assert (ended.value.code, capsys.readouterr().err.count("\n")) == (2, 1)
    monkeypatch.setenv("AGL_STORE_CA", str(broken))
    settings.forget()
    writer = open_writer("https://127.0.0.1:9")
    with pytest.raises(StoreError, match="AGL_STORE_CA"):
        writer.write_batch(WriteBatch())
    writer.close()


def test_plain_requests_get_nothing_from_a_tls_port(
    served: LightningStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that speaks HTTP to it fails with one line."""
    monkeypatch.setenv("AGL_HTTP_RETRIES", "0")
    writer = open_writer(served.endpoint.replace("https", "http"))
    with pytest.raises(StoreUnavailableError, match="cannot reach the store"):
        writer.write_batch(WriteBatch())
    writer.close()
    host, port = served.endpoint.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert b"ok" not in plain.recv(1000)
