"""Redirects: a token goes to the server that was named, and never to the one that it points to."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.errors import StoreError
from agentlightning.server.forward import OtlpTarget
from agentlightning.store import LightningStoreClient
from agentlightning.store.batch_client import BatchClient
from agentlightning.store.exchange import Exchange, RetryPolicy
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Generator

TOKEN = "bearer-of-the-first-server"
STATUSES = (301, 302, 303, 307, 308)


class Pointing(http.server.BaseHTTPRequestHandler):
    """Notes what it is asked, and points to another server where it has one."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        """Answer any method."""
        self.do_GET = self.do_POST = self.do_PUT = self.do_PATCH = self._answer
        super().handle_one_request()

    def _answer(self) -> None:
        server: Any = self.server
        self.rfile.read(int(self.headers.get("content-length", "0")))
        server.seen.append(dict(self.headers))
        self.send_response(server.status)
        if server.location:
            self.send_header("location", server.location + self.path)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


@contextmanager
def pointing(status: int, location: str = "") -> Generator[Any, None, None]:
    """Run such a server."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pointing)
    server.seen, server.status, server.location = [], status, location
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=STATUSES)
def pair(request: pytest.FixtureRequest) -> Generator[tuple[Any, Any], None, None]:
    """Return a server that redirects, and the one to which it does, under another name of this machine."""
    with pointing(200) as other, pointing(request.param, f"http://localhost:{other.server_port}") as named:
        yield named, other


def test_a_batch_does_not_follow(pair: tuple[Any, Any]) -> None:
    """The pipeline's client says where it was sent; the other server sees neither token nor spans."""
    named, other = pair
    url = f"http://127.0.0.1:{named.server_port}"
    client = BatchClient(url, Exchange([url], RetryPolicy((0.01,), 30.0, 5.0), token=TOKEN, ca_file=""))
    with pytest.raises(StoreError, match=f"redirects to localhost:{other.server_port}"):
        client.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 1)]))
    client.close()
    assert [seen["authorization"] for seen in named.seen] == [f"Bearer {TOKEN}"]
    assert other.seen == []


async def test_the_store_client_does_not_follow(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a question nor a claim goes on to another server."""
    named, other = pair
    monkeypatch.setenv("AGL_STORE_TOKEN", TOKEN)
    client = LightningStoreClient(f"http://127.0.0.1:{named.server_port}", retry_delays=(0.01,))
    for call in (client.query_rollouts(), client.dequeue_rollout(), client.get_rollout_by_id("ro-1")):
        with pytest.raises(StoreError, match="redirects are not followed"):
            await call
    await client.close()
    assert {seen["authorization"] for seen in named.seen} == {f"Bearer {TOKEN}"}
    assert other.seen == []


def test_forwarding_does_not_follow(pair: tuple[Any, Any]) -> None:
    """A backend that redirects stops the forwarding; secrets of headers stay with the backend that was named."""
    named, other = pair
    target = OtlpTarget(f"http://127.0.0.1:{named.server_port}", headers=lambda: {"authorization": TOKEN, "x-key": "k"})
    answer = target.send(b"")
    target.close()
    assert answer.verdict == "not_allowed"
    assert len(named.seen) == 1
    assert other.seen == []
