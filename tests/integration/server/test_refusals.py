"""What the server refuses, and how: always with a reason, never with a traceback, and nothing is stored by halves."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import time
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentlightning.errors import QueryTimeoutError, SettingError
from agentlightning.server.access import AccessRules, Grant, TokenFile, new_token
from agentlightning.server.gate import Gate, GateLimits
from agentlightning.server.launcher import LightningStoreServer, ServerOptions, run_server
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, SqliteLightningStore, wire
from agentlightning.types.query import RolloutFilter
from agentlightning.types.record import RolloutStart, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROTOBUF = {"content-type": wire.PROTOBUF}
LIMIT = 200_000


def message(spans: int = 3, trace_id: bytes = b"\x01" * 16) -> ExportTraceServiceRequest:
    """Return an OTLP request."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number in range(spans):
        span = scope.spans.add(trace_id=trace_id, span_id=(number + 1).to_bytes(8, "big"), name=f"step {number}")
        span.start_time_unix_nano, span.end_time_unix_nano = 5, 9
        span.attributes.add(key="k").value.string_value = "v" * 50
    return request


@pytest.fixture
def server() -> Iterator[LightningStoreServer]:
    """Serve an empty store with small limits."""
    made = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    made.options = ServerOptions(port=0, limits=GateLimits(body_bytes=LIMIT))
    with made as running:
        yield running


@pytest.fixture
def http(server: LightningStoreServer) -> Iterator[httpx.Client]:
    """Return a plain HTTP client of the server."""
    with httpx.Client(base_url=server.endpoint, timeout=10) as client:
        yield client


def stored(http: httpx.Client) -> int:
    """Return how many spans are stored."""
    return int(http.get("/v1/statistics").json()["spans"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example:80"}, 403),
        ({"host": "10.0.0.1"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 403),  # changes something, comes from a page, and nobody has a token
        ({"content-type": "text/plain"}, 415),
        ({"content-encoding": "br"}, 415),
        ({}, 200),
    ],
)
def test_requests_of_pages_and_foreign_names_are_refused(
    http: httpx.Client, headers: dict[str, str], status: int
) -> None:
    """DNS rebinding, other origins, forms and unknown encodings are refused on a route that changes something."""
    answer = http.post("/v1/traces", content=message().SerializeToString(), headers=PROTOBUF | headers)
    assert answer.status_code == status
    assert stored(http) == (3 if status == 200 else 0)
    if "host" in headers:
        for path in ("/health", "/metrics", "/v1/rollouts/newest", "/openapi.json", "/nothing"):
            assert http.get(path, headers=headers).status_code == 403


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate", "raw deflate", "two gzip members"])
@pytest.mark.parametrize("as_json", [False, True])
def test_otlp_in_every_form(http: httpx.Client, encoding: str, as_json: bool) -> None:
    """OTLP is taken as protobuf and as JSON, plain, in gzip members, and in deflate with or without header."""
    body = message().SerializeToString()
    if as_json:
        span: dict[str, Any] = {"traceId": "01" * 16, "name": "x", "startTimeUnixNano": "5", "endTimeUnixNano": "9"}
        spans = [span | {"spanId": f"{number:016x}"} for number in (1, 2, 3)]
        body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "identity": body,
        "gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "raw deflate": raw.compress(body) + raw.flush(),
        "two gzip members": gzip.compress(body[:20]) + gzip.compress(body[20:]),
    }[encoding]
    name = {"raw deflate": "deflate", "two gzip members": "gzip"}.get(encoding, encoding)
    headers = {"content-type": wire.JSON if as_json else wire.PROTOBUF, "content-encoding": name}
    answer = http.post("/v1/traces", content=packed, headers=headers)
    assert answer.status_code == 200, answer.text
    assert stored(http) == 3
    rollout_id = http.get("/v1/rollouts/find", params={"text": "latest"}).json()
    assert rollout_id == "ro-" + "01" * 16


def test_good_spans_of_a_message_are_kept(http: httpx.Client) -> None:
    """Spans with ids of a wrong length are counted with a reason, and the others are stored."""
    request = message(4)
    request.resource_spans[0].scope_spans[0].spans[1].span_id = b"\x01" * 7
    request.resource_spans[0].scope_spans[0].spans[2].trace_id = b""
    answer = http.post("/v1/traces", content=request.SerializeToString(), headers=PROTOBUF)
    assert answer.status_code == 200
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert (partial.rejected_spans, "8 bytes" in partial.error_message) == (2, True)
    assert stored(http) == 2


def test_bombs_and_large_bodies_stop_at_the_limit(http: httpx.Client) -> None:
    """A body is measured after inflation, also one of many members and one that never ends."""
    for body in (b"\0" * (LIMIT + 1), gzip.compress(b"\0" * 50 * LIMIT), gzip.compress(b"\0" * LIMIT) * 2):
        headers = PROTOBUF | ({} if body[:1] == b"\0" else {"content-encoding": "gzip"})
        assert http.post("/v1/traces", content=body, headers=headers).status_code == 413

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 10_000

    # The server stops reading: some clients are still sending then and do not see the answer.
    with contextlib.suppress(httpx.TransportError):
        assert http.post("/v1/traces", content=endless(), headers=PROTOBUF).status_code == 413
    assert http.get("/health").status_code == 200


async def test_a_body_of_many_empty_members_costs_little() -> None:
    """A body of 100,000 empty gzip members, each of which would copy the rest, is refused at once."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(scope, receive, send)

    async def receive() -> Any:
        return {"type": "http.request", "body": gzip.compress(b"") * 100_000, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {"host": "localhost", "content-type": wire.PROTOBUF, "content-encoding": "gzip"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/traces", "headers": raw}
    began = time.thread_time()
    await Gate(app, AccessRules("127.0.0.1"))(scope, receive, send)
    assert time.thread_time() - began < 2
    assert sent[0]["status"] == 400
    assert "1000 members" in json.loads(sent[1]["body"])["message"]


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/batches", "/v1/spans", "/v1/rollouts/start", "/v1/rollouts/query"])
@pytest.mark.parametrize("content_type", [wire.PROTOBUF, wire.MSGPACK, wire.JSON])
def test_garbage_is_a_client_error(http: httpx.Client, path: str, content_type: str) -> None:
    """Random, cut and deeply nested bodies are answered by 4xx with a reason, and store nothing."""
    chance = random.Random(7)
    good = message().SerializeToString()
    bodies = [chance.randbytes(size) for size in (1, 10, 1000)]
    bodies += [b"[" * 50_000, b"\x91" * 50_000, b'{"a":' * 50_000, b"{", b"null", b"\xff" * 100, good[:-3], b"[]"]
    for body in bodies:
        for encoding in ("identity", "gzip"):
            answer = http.post(path, content=body, headers={"content-type": content_type, "content-encoding": encoding})
            assert 400 <= answer.status_code < 500 or (answer.status_code == 200 and encoding == "identity"), (
                answer.status_code,
                answer.text,
                body[:20],
            )
            assert "Traceback" not in answer.text
    # Only what is a valid message may be taken: an empty list of spans.
    assert stored(http) == 0


def test_mutated_messages_never_break_the_server(http: httpx.Client) -> None:
    """Flipped bits and cut ends of OTLP messages give 2xx or 4xx, each within a tenth of a second on average."""
    chance = random.Random(11)
    good = message(5).SerializeToString()
    for _ in range(200):
        body = bytearray(good[: chance.randrange(1, len(good))] if chance.random() < 0.3 else good)
        for _ in range(chance.randrange(4)):
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        answer = http.post("/v1/traces", content=bytes(body), headers=PROTOBUF)
        assert answer.status_code in {200, 400}, answer.text


def test_a_changed_body_is_noticed(http: httpx.Client) -> None:
    """A body that does not fit its checksum is answered by 400 and stores nothing."""
    body = message().SerializeToString()
    wrong = PROTOBUF | {wire.CRC_HEADER: "00000000"}
    answer = http.post("/v1/traces", content=body, headers=wrong)
    assert (answer.status_code, answer.json()["error"], stored(http)) == (400, "ChecksumError", 0)
    right = PROTOBUF | {wire.CRC_HEADER: f"{zlib.crc32(body):08x}"}
    assert http.post("/v1/traces", content=body, headers=right).status_code == 200


def test_ids_are_only_ids(http: httpx.Client) -> None:
    """Ids that look like paths, SQL or control characters find nothing and break nothing."""
    for name in ("../../etc/passwd", "..%2f..%2fx", "' OR 1=1 --", "CON", "a\u0000b", "x" * 4000):
        answer = http.get(f"/v1/rollouts/{quote(name, safe='')}")
        assert answer.status_code in {200, 404}, answer.text
        assert answer.status_code == 404 or answer.json() is None


def test_tokens_have_scopes_and_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No, wrong, expired and too weak tokens are refused; the file keeps hashes only, and a change counts at once."""
    path = tmp_path / "tokens.json"
    texts: dict[str, str] = {}
    tokens = TokenFile()
    made = [new_token("r", "read"), new_token("w", "write"), new_token("a", "admin"), new_token("old", "admin", 1.0)]
    path.touch(0o600)
    path.write_text("[]")
    tokens = TokenFile(path)
    for text, token in made:
        tokens.add(token)
        texts[token.name] = text
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(text in path.read_text() for text in texts.values())
    served = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    served.options = ServerOptions(port=0, tokens=TokenFile(path))
    expected = {
        "": (401, 401, 401), "wrong": (401, 401, 401), "old": (401, 401, 401),
        "r": (200, 403, 403), "w": (200, 200, 403), "a": (200, 200, 200),
    }  # fmt: skip
    with served, httpx.Client(base_url=served.endpoint) as http:
        for name, statuses in expected.items():
            headers = {"authorization": f"Bearer {texts.get(name, name)}"} if name else {}
            found = (
                http.get("/v1/statistics", headers=headers).status_code,
                http.post("/v1/rollouts/start", json={"input": 1}, headers=headers).status_code,
                http.post("/v1/rollouts/delete", json={"rollout_ids": []}, headers=headers).status_code,
            )
            assert (name, found) == (name, statuses)
        assert http.get("/health").status_code == 200
        path.write_text("[]")
        assert http.get("/v1/statistics", headers={"authorization": f"Bearer {texts['a']}"}).status_code == 401
    assert not any(text in caplog.text for text in texts.values())
    assert "refused" in caplog.text


def test_other_machines_need_a_token() -> None:
    """A server that others can reach does not start without tokens."""
    with pytest.raises(SettingError, match="--tokens"):
        AccessRules("0.0.0.0")
    AccessRules("::1")
    assert AccessRules("127.0.0.1").admit("GET", "/", {"host": "[::1]:1"}) == Grant()


def test_a_slow_client_keeps_nobody_waiting(server: LightningStoreServer, http: httpx.Client) -> None:
    """Connections that send nothing or a byte do not delay others."""
    host, port = server.endpoint.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(50)]
    for connection in silent:
        connection.send(b"P")
    assert http.get("/health", timeout=2).status_code == 200
    for connection in silent:
        connection.close()


def test_the_api_is_described(http: httpx.Client) -> None:
    """There is an OpenAPI document, and metrics in the format of Prometheus."""
    document = http.get("/openapi.json").json()
    assert {"/v1/traces", "/v1/batches", "/v1/rollouts/dequeue"} <= set(document["paths"])
    http.post("/v1/traces", content=message().SerializeToString(), headers=PROTOBUF)
    assert "agentlightning_spans_stored_total 3" in http.get("/metrics").text


async def test_a_slow_query_is_ended(tmp_path: Path) -> None:
    """A query that takes longer than a server allows is a 422 with a reason, not tried again, and harms no other."""
    store = SqliteLightningStore(tmp_path / "store.db")
    await store.enqueue_rollouts(["x" * 1000] * 5000)
    with LightningStoreServer(store, "127.0.0.1", 0) as running:
        client = LightningStoreClient(running.endpoint)
        store.connector.query_timeout_s = 0.001
        with pytest.raises(QueryTimeoutError, match="ask for less at once"):
            await client.query_rollouts(where=RolloutFilter(text="not there"))
        store.connector.query_timeout_s = 5.0
        assert await client.query_rollouts(where=RolloutFilter(text="not there")) == []
        client.close()


def test_the_server_bounds_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``agl store serve`` sets the bound, which is five seconds."""
    store = SqliteLightningStore(tmp_path / "store.db")

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        assert sockets

    monkeypatch.setattr(uvicorn.Server, "run", run)
    run_server(store, ServerOptions(port=0), lambda _url: None)
    assert store.connector.query_timeout_s == 5.0
    store.close()


HALF = "\ud800"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rollouts/dequeue", {"worker_id": HALF}),
        ("/v1/rollouts/start", {"resources_id": HALF}),
        ("/v1/rollouts/enqueue", {"inputs": [1, 2], "rollout_ids": ["a"]}),
        ("/v1/rollouts/enqueue", {"inputs": [1, 2], "rollout_ids": ["a", "a"]}),
    ],
)
def test_what_no_store_can_keep_is_the_callers_mistake(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """Half of a surrogate pair, and ids that are not as many as inputs, are a 422 with a reason and change nothing."""
    http.post("/v1/rollouts/enqueue", json={"inputs": [1]}).raise_for_status()
    answer = http.post(path, content=json.dumps(body), headers={"content-type": wire.JSON})
    assert answer.status_code == 422, answer.text
    assert "surrogates" in answer.json()["message"] or "different rollout ids" in answer.json()["message"]
    assert http.get("/v1/statistics").json()["rollouts"] == 1


@pytest.mark.parametrize("parent", [{"a": 1}, 10**30, [1], None])
def test_a_parent_that_is_no_id_is_none(http: httpx.Client, parent: Any) -> None:
    """Metadata are the caller's: what they say where an id of a rollout stands is kept, and is no reason to fail."""
    metadata = {"parent_rollout_id": parent}
    made = http.post("/v1/rollouts/start", json={"input": 1, "metadata": metadata})
    assert made.status_code == 200, made.text
    assert made.json()["metadata"] == metadata


def test_a_batch_whose_parent_is_no_id_is_stored(http: httpx.Client) -> None:
    """A batch that would never be taken would be sent for ever, and hold up all behind it."""
    parent = {"parent_rollout_id": {"a": 1}}
    start = RolloutStart(rollout_id="ro-1", attempt_id="at-1", project="default", start_ns=5, metadata=parent)
    body = wire.encode(WriteBatch(starts=[start]))
    assert http.post("/v1/batches", content=body, headers={"content-type": wire.MSGPACK}).status_code == 200
    assert http.get("/v1/rollouts/ro-1").json()["metadata"] == parent
