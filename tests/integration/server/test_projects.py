"""Tokens that are bound to a project: nothing of another one is read or changed, whatever is asked for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agentlightning.errors import AccessError, StoreError, UnknownIdError
from agentlightning.server.access import AccessRules, Refusal, TokenFile, new_token
from agentlightning.server.forward.message import message_of
from agentlightning.server.gate import Gate
from agentlightning.server.launcher import LightningStoreServer, ServerOptions
from agentlightning.store import LightningStoreClient, LightningStoreThreaded, SqliteLightningStore
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.change import ChangeCursor
from agentlightning.types.record import AttemptEnd, RolloutStart, WriteBatch
from agentlightning.types.resources import LLM
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from agentlightning.store.base import LightningStore

TEXT, TOKEN = new_token("a", "admin", project="a")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[LightningStoreServer]:
    """Serve a store to one token, which is bound to project a."""
    made = LightningStoreServer(SqliteLightningStore(tmp_path / "store.db"), "127.0.0.1", 0)
    made.options = ServerOptions(port=0, tokens=TokenFile(tokens=[TOKEN]))
    with made as running:
        yield running


@pytest.fixture
def of_a(served: LightningStoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LightningStoreClient]:
    """Open the project with its token."""
    monkeypatch.setenv("AGL_STORE_TOKEN", TEXT)
    client = LightningStoreClient(served.endpoint, project="a")
    yield client
    client.close()


async def rollout_in(store: LightningStore, span_id: int) -> tuple[str, str, Any]:
    """Make a rollout with an open and an ended span, and return its ids and the ended one."""
    made = await store.start_rollout("secret")
    ids = made.rollout_id, made.attempt.attempt_id
    ended, still = record_of(*ids, span_id), record_of(*ids, span_id + 1, end=False)
    store.write_batch(WriteBatch(spans=[ended, still], project=store.project))
    return *ids, ended


async def test_a_bound_token_reaches_its_project(served: LightningStoreServer, of_a: LightningStoreClient) -> None:
    """In its own project everything works, children and resources too."""
    rollout_id, attempt_id, ended = await rollout_in(of_a, 1)
    resources = await of_a.add_resources({"llm": LLM(endpoint="e", model="m")})
    await of_a.update_resources(resources.resources_id, resources.resources)
    queued = await of_a.enqueue_rollout("x", metadata={"parent_rollout_id": rollout_id})
    assert [child.rollout_id for child in await of_a.query_child_rollouts(rollout_id)] == [queued.rollout_id]
    claimed = await of_a.dequeue_rollout()
    assert claimed is not None
    assert (await of_a.heartbeat(rollout_id, attempt_id)).attempt_id == attempt_id
    assert (await of_a.query_spans_by_key([(ended.trace_id, ended.span_id)]))[0].span_id == ended.span_id
    assert await of_a.find_attempt_of_trace(ended.trace_id) == (rollout_id, attempt_id)
    assert await of_a.find_rollout_id(rollout_id) == rollout_id
    assert len((await of_a.query_changes(ChangeCursor())).spans) == 2
    await of_a.update_attempt(rollout_id, attempt_id, status="succeeded")
    assert len(await of_a.wait_for_rollouts(rollout_ids=[rollout_id], timeout=0)) == 1
    assert await of_a.delete_rollouts([rollout_id]) == 2


async def test_nothing_of_another_project_is_seen_or_changed(
    served: LightningStoreServer, of_a: LightningStoreClient
) -> None:
    """Every call with an id of another project finds nothing or is refused, and leaves it as it was."""
    assert served.store is not None
    other = served.store.with_project("b")
    rollout_id, attempt_id, ended = await rollout_in(other, 100)
    resources = await other.add_resources({"llm": LLM(endpoint="e", model="secret")})
    key = ended.trace_id, ended.span_id
    forged = ChangeCursor(open_spans=(key,), running=(rollout_id,), span=10**9)
    before = await picture(other, rollout_id, resources.resources_id)
    nothing: list[tuple[Callable[[], Awaitable[Any]], Any]] = [
        (lambda: of_a.get_rollout_by_id(rollout_id), None),
        (lambda: of_a.query_attempts(rollout_id), []),
        (lambda: of_a.get_latest_attempt(rollout_id), None),
        (lambda: of_a.query_spans(rollout_id, include_open=True), []),
        (lambda: of_a.query_span_rows(rollout_id), []),
        (lambda: of_a.query_spans_by_key([key]), []),
        (lambda: of_a.find_attempt_of_trace(ended.trace_id), None),
        (lambda: of_a.query_child_rollouts(rollout_id), []),
        (lambda: of_a.get_resources_by_id(resources.resources_id), None),
        (of_a.get_latest_resources, None),
        (of_a.query_rollouts, []),
        (of_a.query_newest_rollouts, []),
        (of_a.dequeue_rollout, None),
        (lambda: of_a.wait_for_rollouts(rollout_ids=[rollout_id], timeout=0), []),
        (lambda: of_a.delete_rollouts([rollout_id]), 0),
        (lambda: of_a.prune(keep=0), 0),
    ]
    for call, answer in nothing:
        assert await call() == answer
    for cursor in (forged, ChangeCursor(), None):
        seen = await of_a.query_changes(cursor)
        assert (seen.spans, seen.rollouts) == ([], [])
    stolen = record_of("ro-x", "at-x", 101)
    stolen.trace_id, stolen.span_id = key
    start = RolloutStart(rollout_id="ro-x", attempt_id="at-x", project="b", start_ns=1)
    refused: list[Callable[[], Awaitable[Any]]] = [
        lambda: of_a.find_rollout_id(rollout_id),
        lambda: of_a.start_attempt(rollout_id),
        lambda: of_a.heartbeat(rollout_id, attempt_id),
        lambda: of_a.update_rollout(rollout_id, status="cancelled"),
        lambda: of_a.update_attempt(rollout_id, "latest", status="failed"),
        lambda: of_a.get_next_span_sequence_id(rollout_id, attempt_id),
        lambda: of_a.update_resources(resources.resources_id, resources.resources),
        lambda: of_a.add_span(Span.from_record(record_of(rollout_id, attempt_id, 102), 0)),
        lambda: of_a.start_rollout("x", metadata={"parent_rollout_id": rollout_id}),
        lambda: of_a.enqueue_rollout("x", metadata={"parent_rollout_id": rollout_id}),
        lambda: of_a.start_rollout("x", resources_id=resources.resources_id),
        of_a.statistics,
        of_a.with_project("b").query_rollouts,
        lambda: written(of_a, WriteBatch(spans=[record_of(rollout_id, attempt_id, 103)])),
        lambda: written(of_a, WriteBatch(spans=[record_of("ro-x", attempt_id, 104)])),
        lambda: written(of_a, WriteBatch(spans=[stolen])),
        lambda: written(of_a, WriteBatch(starts=[start])),
        lambda: written(
            of_a,
            WriteBatch(ends=[AttemptEnd(rollout_id="ro-x", attempt_id=attempt_id, status="failed", end_ns=5)]),
        ),
    ]
    for call in refused:
        with pytest.raises((AccessError, UnknownIdError)):
            await call()
    assert await picture(other, rollout_id, resources.resources_id) == before


async def written(store: LightningStoreClient, batch: WriteBatch) -> None:
    """Write *batch* for the store's project."""
    batch.project = store.project
    await asyncio.to_thread(store.write_batch, batch)


async def picture(store: LightningStore, rollout_id: str, resources_id: str) -> list[Any]:
    """Return all that a project holds of a rollout."""
    return [
        await store.get_rollout_by_id(rollout_id),
        await store.query_attempts(rollout_id),
        await store.query_spans(rollout_id, include_open=True),
        await store.query_child_rollouts(rollout_id),
        await store.get_resources_by_id(resources_id),
        len(await store.query_rollouts()),
    ]


async def test_otlp_and_metrics_keep_to_the_project(served: LightningStoreServer) -> None:
    """Spans that name another project's rollout are rejected alone; counts of all projects are refused."""
    assert served.store is not None
    rollout_id, attempt_id, _ = await rollout_in(served.store.with_project("b"), 100)
    message = message_of([record_of(rollout_id, attempt_id, 102), record_of("ro-own", "at-own", 1)])
    headers = {"authorization": f"Bearer {TEXT}"}
    async with httpx.AsyncClient(base_url=served.endpoint, headers=headers) as http:
        kind = {"content-type": "application/x-protobuf"}
        answer = await http.post("/v1/traces", content=message.SerializeToString(), headers=kind)
        partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
        assert (partial.rejected_spans, partial.error_message) == (1, "it belongs to another project")
        assert (await http.get("/metrics")).status_code == 403
        assert (await http.get("/v1/rollouts/newest", headers={"x-agl-project": "b"})).status_code == 403
    own = await served.store.with_project("a").query_rollouts()
    assert [rollout.rollout_id for rollout in own] == ["ro-own"]


async def test_a_token_taken_back_while_its_body_comes_opens_no_more(tmp_path: Path) -> None:
    """A request that was let in for one project stays in it, also when its token is gone before its body is there."""
    path = tmp_path / "tokens.json"
    path.touch(0o600)
    path.write_text(json.dumps([asdict(TOKEN)]))
    file = TokenFile(path)
    reached: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        _ = receive, send
        reached.append(scope["agentlightning.project"])

    async def receive() -> Any:
        path.write_text("[]")
        assert isinstance(AccessRules("127.0.0.1", file).admit("POST", "/v1/batches", headers), Refusal)
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = {"host": "localhost", "authorization": f"Bearer {TEXT}", "content-type": "application/json"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/batches", "headers": raw}
    await Gate(app, AccessRules("127.0.0.1", file))(scope, receive, send)
    assert reached == ["a"]


async def test_a_store_that_cannot_keep_projects_apart_takes_no_bound_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than show everything, a server of another kind of store refuses the token."""
    monkeypatch.setenv("AGL_STORE_TOKEN", TEXT)
    made = LightningStoreServer(LightningStoreThreaded(SqliteLightningStore(tmp_path / "s.db")), "127.0.0.1", 0)
    made.options = ServerOptions(port=0, tokens=TokenFile(tokens=[TOKEN]))
    with made as running:
        client = LightningStoreClient(running.endpoint, project="a")
        with pytest.raises(StoreError, match="cannot keep projects apart"):
            await client.query_rollouts()
        client.close()
