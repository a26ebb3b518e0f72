"""Answers that are lost after the server's commit: nothing is made twice, and no claim costs a rollout its attempt."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from agentlightning.errors import StoreUnavailableError
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import LightningStoreClient, SqliteLightningStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentlightning.types.core import AttemptedRollout

DELAYS = (0.01, 0.01, 0.01)


class Relay(http.server.BaseHTTPRequestHandler):
    """Hands requests on to a server and drops the answer to the first ones of each path."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        behind = http.client.HTTPConnection(server.behind, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        content = answer.read()
        behind.close()
        with server.lock:
            server.seen[self.path] = server.seen.get(self.path, 0) + 1
            is_lost = server.seen[self.path] <= server.lost
        if is_lost:
            server.on_lost(self.command)
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers["content-type"])
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PATCH = do_POST  # noqa: N815 - names of the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteLightningStore]:
    """Return the store behind the server."""
    opened = SqliteLightningStore(tmp_path / "store.db")
    yield opened
    opened.close()


@pytest.fixture
def relay(store: SqliteLightningStore) -> Iterator[Any]:
    """Serve the store behind a relay whose ``lost`` says how many answers of a path do not come back."""
    with LightningStoreServer(store, "127.0.0.1", 0) as running:
        server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
        server.daemon_threads = True
        server.behind, server.seen, server.lost = urlsplit(running.endpoint).netloc, {}, 0
        server.lock, server.on_lost = threading.Lock(), str
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
        server.server_close()


def client_of(relay: Any, lost: int) -> LightningStoreClient:
    """Return a client whose first *lost* answers of each path do not arrive."""
    relay.lost = lost
    return LightningStoreClient(f"http://127.0.0.1:{relay.server_port}", retry_delays=DELAYS)


async def test_what_creates_is_repeated_and_made_once(relay: Any, store: SqliteLightningStore) -> None:
    """Each call that creates something works although its first answers are lost, and makes one thing."""
    client = client_of(relay, lost=2)
    queued = await client.enqueue_rollouts(["a", "b"])
    claimed = await client.dequeue_rollout(worker_id="w", lease_s=60)
    started = await client.start_rollout("c")
    again = await client.start_attempt(started.rollout_id)
    given = await client.add_resources({})
    await client.close()
    assert claimed is not None
    assert (claimed.rollout_id, claimed.attempt.sequence_id) == (queued[0].rollout_id, 1)
    assert again.attempt.sequence_id == 2
    assert set(relay.seen.values()) == {3}
    found = await store.statistics()
    assert (found.rollouts, found.attempts, found.resources, found.queued) == (3, 3, 1, 1)
    assert await store.get_latest_resources() == given


async def test_a_claim_without_any_answer_is_asked_for_again(relay: Any, store: SqliteLightningStore) -> None:
    """When the retries of a claim are spent, the worker's next question gets the rollout that was claimed for it."""
    client = client_of(relay, lost=len(DELAYS) + 1)
    rollout = await store.enqueue_rollout("only")
    with pytest.raises(StoreUnavailableError):
        await client.dequeue_rollout(worker_id="w", lease_s=60)
    assert (await store.statistics()).queued == 0
    assert await client.dequeue_rollout(worker_id="another", lease_s=60) is None
    claimed = await client.dequeue_rollout(worker_id="w", lease_s=60)
    assert claimed is not None
    assert (claimed.rollout_id, claimed.attempt.sequence_id) == (rollout.rollout_id, 1)
    assert await client.dequeue_rollout(worker_id="w", lease_s=60) is None
    await client.close()


async def test_no_claim_is_lost_or_given_twice_between_many_workers(relay: Any, store: SqliteLightningStore) -> None:
    """Workers whose answers are lost at random get each rollout once, in its first attempt."""
    ids = {rollout.rollout_id for rollout in await store.enqueue_rollouts(list(range(40)))}
    relay.lost = 30
    clients = [client_of(relay, lost=30) for _ in range(4)]

    async def work(client: LightningStoreClient, name: str) -> list[str]:
        taken: list[str] = []
        while True:
            try:
                claimed = await client.dequeue_rollout(worker_id=name, lease_s=60)
            except StoreUnavailableError:
                continue
            if claimed is None:
                return taken
            assert claimed.attempt.sequence_id == 1
            taken.append(claimed.rollout_id)

    lists = await asyncio.gather(*(work(client, f"w{number}") for number, client in enumerate(clients)))
    for client in clients:
        await client.close()
    taken = [rollout_id for found in lists for rollout_id in found]
    assert sorted(taken) == sorted(ids)


async def test_a_rollout_that_was_queued_again_is_not_taken_from_its_next_worker(
    relay: Any, store: SqliteLightningStore
) -> None:
    """Who queues a rollout again and gets no answer repeats that; whoever claimed it in between keeps it."""
    rollout = await store.start_rollout("a")
    await store.update_attempt(rollout.rollout_id, "latest", status="failed")
    client = client_of(relay, lost=1)
    claims: list[AttemptedRollout | None] = []

    def claim(method: str) -> None:
        """Claim what is queued, after the request has arrived and before it comes again."""
        if method == "PATCH":
            claims.append(asyncio.run(store.dequeue_rollout()))

    relay.on_lost = claim
    changed = await client.update_rollout(rollout.rollout_id, status="queuing", metadata={"b": 1})
    await client.close()
    assert [claimed and claimed.attempt.sequence_id for claimed in claims] == [2]
    assert (changed.status, changed.metadata) == ("preparing", {"b": 1})
    assert await store.dequeue_rollout() is None
