"""Uploads to the AgentOps service: proven against a second server of our own, over TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from agentlightning import configure, settings
from agentlightning.errors import SettingError
from agentlightning.instrumentation.agentops_server import AgentOpsServerManager, AgentOpsServerOptions
from agentlightning.server.agentops.service import Service, Upload, pauses
from agentlightning.store import open_store
from agentlightning.testing.agentops import RemoteService, otlp, serving, session, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.store.base import LightningStore
    from agentlightning.testing.agentops import Server


class World(RemoteService):
    """The service, and what the settings must say to reach it."""

    def service(self, url: str, **changed: Any) -> Service:
        """Return how it is reached."""
        given = {"api_key": self.key, "endpoint": url, "exporter_endpoint": f"{url}/v1/traces", "ca_file": self.ca}
        return Service(**{**given, **changed})

    def names(self) -> list[str]:
        """Return the names of the spans that it has."""
        return [span.name for span in self.spans()]


@pytest.fixture
def world(isolated: Path, certificate: tuple[str, str]) -> Iterator[World]:
    """Return a service; uploads pause for 10 to 50 ms."""
    configure(agentops_retry_first_s=0.01, agentops_retry_cap_s=0.05)
    made = World(isolated, certificate)
    yield made
    made.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Return what closes at the end of the test."""
    with ExitStack() as made:
        yield made


@pytest.fixture
def local(isolated: Path) -> Iterator[LightningStore]:
    """Return the store of the local server."""
    store = open_store(str(isolated / "local.db"))
    yield store
    store.close()


def test_both_keeps_and_uploads(world: World, local: LightningStore, stack: ExitStack) -> None:
    """In the mode BOTH spans are in the local store and at the service, once each; older ones stay."""
    with serving(AgentOpsServerOptions(), local) as server:
        server.send(otlp(*session(1)))
    url = world.start()
    upload = Upload(local, world.service(url), is_buffer=False)
    with upload:
        assert local_cursor(local), "a span may be acknowledged before it is noted where uploading begins"
        server = stack.enter_context(serving(AgentOpsServerOptions(mode="BOTH"), local, upload))
        server.send(otlp(*session(2)))
        wait_until(lambda: len(world.names()) == 2)
        expected = {"status": "ok", "mode": "BOTH", "uploaded": 2, "problem": ""}
        wait_until(lambda: server.client.get("/health").json() == expected)
        assert "agentlightning_agentops_uploaded_total 2" in server.client.get("/metrics").text
    assert len(asyncio.run(local.query_rollouts())) == 2
    found = asyncio.run(world.store.query_rollouts())
    assert [(item.rollout_id, item.input, item.status) for item in found] == [
        (f"ro-{2:032x}", "job2 [a] Success", "succeeded")
    ]


def local_cursor(store: LightningStore) -> list[str]:
    """Return the files of cursors beside *store*."""
    assert store.url is not None
    path = Path(store.url.removeprefix("sqlite:///"))
    return [file.name for file in path.parent.glob(f"{path.name}.forward-*") if file.is_file()]


def test_what_the_service_cannot_take_waits(world: World, local: LightningStore) -> None:
    """While the service is away spans wait in the store, also over a restart, and go out once it is back, each once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        away = f"https://127.0.0.1:{probe.getsockname()[1]}"
    upload = Upload(local, world.service(away), is_buffer=True)
    with upload, serving(AgentOpsServerOptions(), local) as server:
        server.send(otlp(*session(1)))
        wait_until(lambda: "cannot be reached" in upload.problem)
        assert "spans wait here" in upload.problem
    url = world.start()
    for _ in range(2):  # the second one finds that all was sent
        upload = Upload(local, world.service(url), is_buffer=True)
        with upload, serving(AgentOpsServerOptions(), local) as server:
            server.send(otlp(*session(2)))
            wait_until(lambda: len(world.names()) == 4)
    assert sorted(world.names()) == ["job1.session", "job2.session", "openai.chat.completion", "openai.chat.completion"]


def test_of_several_servers_on_one_store_one_uploads(world: World, local: LightningStore) -> None:
    """A second server on the same store sends nothing while the first one does, and takes over after its end."""
    url = world.start()
    first, second = (Upload(local, world.service(url), is_buffer=True) for _ in range(2))
    with serving(AgentOpsServerOptions(), local) as server:
        with first:
            server.send(otlp(*session(1)))
            wait_until(lambda: first.sent == 2)
            with second:
                server.send(otlp(*session(2)))
                wait_until(lambda: first.sent == 4)
        assert second.sent == 0
        with Upload(local, world.service(url), is_buffer=True) as third:
            server.send(otlp(*session(3)))
            wait_until(lambda: third.sent == 2)


def test_each_mistake_has_its_own_line(
    world: World, local: LightningStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, stack: ExitStack
) -> None:
    """A wrong key, a wrong address of either kind and a bad certificate are one clear line each, logged once."""
    url = world.start()
    stranger = stack.enter_context(serving(AgentOpsServerOptions(), local))
    stranger.send(otlp(*session(1)))
    other = _other_certificate(tmp_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"api_key": "wrong"}, "refuses the API key (status 403): look at AGL_AGENTOPS_API_KEY"),
        ({"endpoint": f"{stranger.url}/v1"}, "is no AgentOps service"),
        (
            {"exporter_endpoint": f"{url}/elsewhere"},
            "takes no spans (status 404): look at AGL_AGENTOPS_EXPORTER_ENDPOINT",
        ),
        ({"ca_file": other}, "is not trusted"),
        ({"ca_file": None}, "name its issuer with AGL_AGENTOPS_CA"),
    ]
    for changed, line in cases:
        caplog.clear()
        upload = Upload(local, world.service(url, **changed), is_buffer=True)
        with upload:
            wait_until(lambda upload=upload: upload.problem)
            assert line in upload.problem
            time.sleep(0.1)  # several more tries
        assert [record.getMessage() for record in caplog.records if record.name == "agentlightning.agentops"] == [
            upload.problem
        ]
        assert world.key not in caplog.text
    assert world.names() == []


def _other_certificate(folder: Path) -> str:
    cert = folder / "foreign.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=other"
    subprocess.run(
        [*command.split(), "-keyout", str(folder / "k.pem"), "-out", str(cert)], check=True, capture_output=True
    )
    return str(cert)


def test_pauses_grow_are_bounded_and_differ() -> None:
    """Pauses double up to a maximum, and a share of each is random; the three figures are settings."""
    configure(agentops_retry_first_s=1.0, agentops_retry_cap_s=8.0, agentops_retry_jitter=0.0)
    assert [pauses().pause_s(number) for number in range(1, 7)] == [1, 2, 4, 8, 8, 8]
    settings.forget()  # as in another process: these are settings that change before they are used only
    configure(agentops_retry_jitter=0.5)
    found = {pauses().pause_s(9) for _ in range(50)}
    assert len(found) > 10
    assert 4 <= min(found) <= max(found) <= 8


def test_nothing_is_sent_in_clear_text_or_without_a_key() -> None:
    """Without a key, and with an address that would send it unencrypted to another machine, there is no upload."""
    with pytest.raises(SettingError, match="AGL_AGENTOPS_API_KEY"):
        Service.from_settings()
    settings.forget()
    configure(agentops_api_key="k", agentops_endpoint="http://service.example")
    with pytest.raises(SettingError, match="clear text"):
        Service.from_settings()


def test_the_mode_service_touches_no_store_of_the_user(world: World, isolated: Path) -> None:
    """In the mode SERVICE a server process relays: the user's store is not even made."""
    url = world.start()
    settings.forget()
    configure(
        agentops_mode="SERVICE",
        agentops_api_key=world.key,
        agentops_endpoint=url,
        agentops_exporter_endpoint=f"{url}/v1/traces",
        agentops_ca=world.ca,
    )
    manager = AgentOpsServerManager(True, None, AgentOpsServerOptions(store=str(isolated / "users.db")))
    manager.start()
    try:
        body, headers = otlp(*session(3)), {"content-type": "application/x-protobuf"}
        assert httpx.post(f"{manager.url}/v1/traces", content=body, headers=headers).status_code == 200
        wait_until(lambda: len(world.names()) == 2)
    finally:
        manager.stop()
    assert not (isolated / "users.db").exists()


def test_the_local_mode_reaches_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the mode LOCAL a server that takes everything the SDK sends, metrics too, resolves and connects to nothing."""
    caplog.set_level(logging.INFO)
    resolved: list[object] = []
    connected: list[object] = []

    def resolve(name: object, *_: object, **__: object) -> list[object]:
        resolved.append(name)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    original = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(address)
        original(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    body = otlp(*session(1))
    port = int(server.url.rpartition(":")[2])
    with _plain(port) as stream:
        for path in ("/v1/traces", "/v1/metrics"):
            head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-protobuf\r\n"
            stream.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert b"200 OK" in stream.recv(65536)
    assert resolved == []
    assert connected == [("127.0.0.1", port)]


def _plain(port: int) -> socket.socket:
    stream = socket.socket()
    stream.connect(("127.0.0.1", port))
    return stream
