"""The client of a store: any event loop, any process, servers that go away, answer late or are several."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentlightning.errors import AccessError, StoreError, StoreUnavailableError
from agentlightning.pipeline.redaction import rules_hash
from agentlightning.server.access import TokenFile, new_token
from agentlightning.server.gate import GateLimits
from agentlightning.server.launcher import LightningStoreServer, ServerOptions
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, open_store, wire
from agentlightning.store.batch_client import BatchClient, addresses_of
from agentlightning.store.exchange import Exchange, Request, RetryPolicy
from agentlightning.store.url import open_writer
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import RolloutStart, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[LightningStoreServer]:
    """Serve an empty store."""
    with LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0) as running:
        yield running


Answer = tuple[int, dict[str, str], bytes]


class Script(http.server.BaseHTTPRequestHandler):
    """Answers what the test wrote down, one entry for each request: status and headers."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        server.seen.append((time.monotonic(), dict(self.headers), body))
        answers: list[Answer] = server.answers
        status, headers, answer = answers.pop(0) if answers else (200, {}, b'{"stored":1}')
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        for name in headers:
            self.send_header(name, headers[name])
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


@pytest.fixture
def scripted() -> Iterator[Any]:
    """Run a server that answers as the test says."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script)
    server.answers, server.seen = [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def exchange_with(*addresses: str, delays: tuple[float, ...] = (0.01, 0.01, 0.01)) -> Exchange:
    """Return a way to servers with short pauses."""
    return Exchange(addresses, RetryPolicy(delays, 30.0, 5.0), token="", ca_file="")


POST = Request("POST", "/v1/batches", body=b"{}")


def test_busy_and_broken_answers_are_tried_again(scripted: Any) -> None:
    """After 503, 429, a reset and a damaged body the same request is sent again; Retry-After is kept to."""
    damaged: Answer = (400, {}, b'{"error":"ChecksumError","message":"changed"}')
    scripted.answers[:] = [(0, {}, b""), (429, {"retry-after": "0.3"}, b"{}"), damaged]
    exchange = exchange_with(f"http://127.0.0.1:{scripted.server_port}")
    assert exchange.send(POST) == b'{"stored":1}'
    exchange.close()
    times = [seen[0] for seen in scripted.seen]
    assert len(times) == 4
    assert times[2] - times[1] >= 0.3


def test_the_next_server_takes_over_and_the_first_comes_back(scripted: Any, server: LightningStoreServer) -> None:
    """When the first address is spent the next one is used; nothing is stored twice, and the first is used again."""
    first = f"http://127.0.0.1:{scripted.server_port}"
    scripted.answers[:] = [(503, {}, b"{}")] * 4
    writer = BatchClient(first, exchange_with(first, server.endpoint))
    batch = WriteBatch(spans=[record_of("ro-1", "at-1", 1)])
    assert writer.write_batch(batch).stored == 1
    assert writer.write_batch(batch).duplicate == 1
    assert len(scripted.seen) == 4
    cast("Exchange", vars(writer)["_exchange"]).forget_failures()  # as some seconds later
    assert writer.write_batch(batch).stored == 1
    assert len(scripted.seen) == 5
    writer.close()
    assert addresses_of("http://a:1, https://b:2") == ["http://a:1", "https://b:2"]
    with pytest.raises(StoreError, match="no address"):
        addresses_of("http://a:1,ftp://b")


def test_a_batch_that_is_too_large_goes_in_halves() -> None:
    """A server with a small limit gets the batch in parts, start first and end last; one huge span is refused."""
    made = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    made.options = ServerOptions(port=0, limits=GateLimits(body_bytes=20_000))
    with made as running:
        writer = open_writer(running.endpoint)
        spans = [record_of("ro-1", "at-1", n, attributes={"t": "x" * 4000}) for n in range(30)]
        assert writer.write_batch(WriteBatch(spans=spans)).stored == 30
        with pytest.raises(wire.BodyTooLargeError):
            writer.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 99, attributes={"t": "x" * 40_000})]))
        writer.close()


CHILD = """
import asyncio, pickle, sys
client = pickle.load(sys.stdin.buffer)
print(asyncio.run(client.start_rollout("from a child")).rollout_id)
client.close()
"""


def test_a_pickled_client_works_in_another_process(server: LightningStoreServer) -> None:
    """A client goes to another process by pickling, with its project."""
    client = LightningStoreClient(server.endpoint, project="p")
    asyncio.run(client.statistics())
    answer = subprocess.run([sys.executable, "-c", CHILD], input=pickle.dumps(client), capture_output=True, check=True)
    assert [r.rollout_id for r in asyncio.run(client.query_rollouts())] == [answer.stdout.decode().strip()]
    client.close()


def test_a_used_client_works_after_a_fork(server: LightningStoreServer) -> None:
    """A forked child opens connections and threads of its own, and the parent goes on with its own."""
    client = LightningStoreClient(server.endpoint)
    asyncio.run(client.statistics())

    def work() -> None:
        asyncio.run(client.start_rollout("from a child"))
        client.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 1)]))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(15)
    assert child.exitcode == 0
    found = asyncio.run(client.statistics())
    assert (found.rollouts, found.spans) == (2, 1)
    client.close()


async def test_close_may_be_awaited_and_urls_open_the_client(server: LightningStoreServer) -> None:
    """``open_store`` takes http URLs, ``close`` works with and without await, and a closed client opens again."""
    store = open_store(server.endpoint, "p")
    assert isinstance(store, LightningStoreClient)
    assert await store.is_healthy()
    await store.close()
    assert (await store.enqueue_rollout("again")).status == "queuing"
    store.close()
    assert isinstance(open_store("memory://"), InMemoryLightningStore)
    copied: LightningStoreServer = pickle.loads(pickle.dumps(server))
    assert len(await copied.with_project("p").query_rollouts()) == 1
    copied.close()
    with pytest.raises(StoreUnavailableError, match="ftp"):
        open_store("ftp://x")


async def test_many_waiters_are_woken(server: LightningStoreServer) -> None:
    """Waiters over HTTP are held by the server and wake when their rollout ends."""
    client = LightningStoreClient(server.endpoint)
    rollouts = [await client.start_rollout(number) for number in range(10)]
    waiters = [asyncio.create_task(client.wait_for_rollouts(rollout_ids=[r.rollout_id], timeout=10)) for r in rollouts]
    for rollout in rollouts:
        await client.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    assert all(len(found) == 1 for found in await asyncio.gather(*waiters))
    await client.close()


def test_a_token_opens_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token the client says what is missing, with one it works."""
    text, token = new_token("me", "write")
    served = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    served.options = ServerOptions(port=0, tokens=TokenFile(tokens=[token]))
    with served:
        refused = LightningStoreClient(served.endpoint)
        with pytest.raises(AccessError, match="AGL_STORE_TOKEN"):
            asyncio.run(refused.statistics())
        refused.close()
        monkeypatch.setenv("AGL_STORE_TOKEN", text)
        from agentlightning import settings

        settings.forget()
        client = LightningStoreClient(served.endpoint)
        assert asyncio.run(client.statistics()).rollouts == 0
        client.close()


def test_bodies_are_compressed_only_when_they_travel() -> None:
    """A body has its checksum, and gzip where the server is another machine."""
    body = b"a" * 5000
    plain, headers = wire.body_headers(body, wire.JSON, compress=False)
    assert (plain, headers[wire.CRC_HEADER]) == (body, f"{zlib.crc32(body):08x}")
    packed, headers = wire.body_headers(body, wire.JSON, compress=True)
    assert (gzip.decompress(packed), headers["content-encoding"]) == (body, "gzip")
    assert headers[wire.CRC_HEADER] == f"{zlib.crc32(packed):08x}"


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    """The error names the address."""
    writer = BatchClient("http://127.0.0.1:9", exchange_with("http://127.0.0.1:9"))
    with pytest.raises(StoreUnavailableError, match=r"http://127\.0\.0\.1:9"):
        writer.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 1)]))
    writer.close()


async def test_spans_are_redacted_once(server: LightningStoreServer) -> None:
    """A batch that names the server's own rule set is taken as it is; any other is redacted, inputs too."""
    writer, client = open_writer(server.endpoint), LightningStoreClient(server.endpoint)
    secret = {"password": "correct-horse-battery"}
    for number, rules in enumerate((rules_hash(), "", "0" * 16)):
        ids = f"ro-{number}", f"at-{number}"
        start = RolloutStart(rollout_id=ids[0], attempt_id=ids[1], project="default", input=dict(secret), start_ns=1)
        span = record_of(*ids, number + 1, attributes=dict(secret))
        writer.write_batch(WriteBatch(starts=[start], spans=[span], rules=rules))
        rollout = await client.get_rollout_by_id(ids[0])
        assert rollout is not None
        kept = {(await client.query_spans(ids[0]))[0].attributes["password"], rollout.input["password"]}
        assert (secret["password"] in kept, len(kept)) == (rules == rules_hash(), 1)
    writer.close()
    client.close()
