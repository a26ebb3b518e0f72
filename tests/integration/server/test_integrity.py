"""What comes over HTTP: no span is refused and counted on both sides, what cannot be true is stored and flagged."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from agentlightning.errors import StoreError
from agentlightning.pipeline.export import Exporter
from agentlightning.pipeline.ledger import Ledger
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.server.otlp import request_from_json
from agentlightning.server.routes import otlp
from agentlightning.store import InMemoryLightningStore, LightningStoreClient
from agentlightning.store.batch_client import BatchClient
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.types.query import SpanRow


@pytest.fixture
def store() -> InMemoryLightningStore:
    """Return an empty store."""
    return InMemoryLightningStore()


@pytest.fixture
def server(store: InMemoryLightningStore) -> Iterator[LightningStoreServer]:
    """Serve it."""
    with LightningStoreServer(store, "127.0.0.1", 0) as running:
        yield running


def counters(server: LightningStoreServer) -> dict[str, int]:
    """Return what ``/metrics`` counts of spans."""
    lines = httpx.get(f"{server.endpoint}/metrics").text.splitlines()
    pairs = (line.split() for line in lines if "spans_" in line and not line.startswith("#"))
    return {name.removeprefix("agentlightning_").removesuffix("_total"): int(float(value)) for name, value in pairs}


def rows(store: InMemoryLightningStore) -> list[SpanRow]:
    """Return every span of the newest rollout."""
    (rollout,) = asyncio.run(store.query_newest_rollouts(limit=1))
    return asyncio.run(store.query_span_rows(rollout.rollout_id))


def test_a_large_message_is_read_beside_the_loop(
    server: LightningStoreServer, store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON of OTLP takes seconds for 20 MiB: a large body is read on a thread, and holds up no other request."""
    on_loop: list[bool] = []

    def read(body: bytes) -> Any:
        """Note whether this is the thread of an event loop."""
        on_loop.append(asyncio._get_running_loop() is not None)
        return request_from_json(body)

    monkeypatch.setattr(otlp, "request_from_json", read)
    value = {"key": "k", "value": {"stringValue": "v" * 500}}
    span: dict[str, Any] = {"traceId": "01" * 16, "name": "x", "startTimeUnixNano": "50", "endTimeUnixNano": "90"}
    spans = [span | {"spanId": f"{number + 1:016x}", "attributes": [value]} for number in range(200)]
    body = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    assert httpx.post(f"{server.endpoint}/v1/traces", json=body).json() == {}
    assert on_loop == [False]
    assert len(rows(store)) == 200


def test_otlp_spans_are_refused_or_flagged(server: LightningStoreServer, store: InMemoryLightningStore) -> None:
    """Of an OTLP message what is no span is refused with the reason, and what ends before it starts is flagged."""
    span: dict[str, Any] = {"traceId": "01" * 16, "name": "x", "startTimeUnixNano": "50", "endTimeUnixNano": "90"}
    spans = [
        span | {"spanId": f"{1:016x}"},
        span | {"spanId": f"{2:016x}", "endTimeUnixNano": "9"},
        span | {"spanId": f"{3:016x}", "links": [{"traceId": "01" * 16, "spanId": ""}]},
        span | {"spanId": f"{4:016x}", "attributes": [{"key": "", "value": {"intValue": "1"}}]},
    ]
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
    answer = httpx.post(f"{server.endpoint}/v1/traces", content=body, headers={"content-type": "application/json"})
    partial = answer.json()["partialSuccess"]
    assert (answer.status_code, partial["rejectedSpans"]) == (200, "2")
    assert "a link has no valid ids" in partial["errorMessage"]
    assert "an attribute has no name" in partial["errorMessage"]
    assert {row.span_id[-1]: row.facts.integrity for row in rows(store)} == {"1": None, "2": "end_before_start"}
    counted = counters(server)
    assert (counted["spans_stored"], counted["spans_rejected"], counted["spans_flagged"]) == (2, 2, 1)


def test_both_sides_of_a_batch_count_what_is_refused(
    server: LightningStoreServer, store: InMemoryLightningStore
) -> None:
    """Records of a batch that are no spans are refused, the others are stored, and the sender's ledger adds up."""
    client = BatchClient(server.endpoint)
    ledger = Ledger(None)
    exporter = Exporter(lambda _: client, ledger)
    good, bad, odd = (record_of("ro-1", "at-1", number) for number in (1, 2, 3))
    bad.kind = "NOTHING"
    odd.end_ns = odd.start_ns - 1
    ledger.count("produced", 3)
    exporter.put(WriteBatch(spans=[good, bad, odd]))
    exporter.deliver(patient=False)
    account = ledger.account()
    assert (account.produced, account.stored, account.lost, account.waiting) == (3, 2, {"rejected": 1}, 0)
    assert sorted(str(row.facts.integrity) for row in rows(store)) == ["None", "end_before_start"]
    counted = counters(server)
    assert (counted["spans_stored"], counted["spans_rejected"], counted["spans_flagged"]) == (2, 1, 1)
    client.close()


def test_single_spans_that_are_none_are_an_error(server: LightningStoreServer) -> None:
    """Who adds a span that is none gets the reason as an error, and nothing is stored."""

    async def add() -> None:
        client = LightningStoreClient(server.endpoint)
        rollout = await client.start_rollout(input=None)
        span = Span.from_attributes(
            attributes={}, rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id, trace_id="nope"
        )
        with pytest.raises(StoreError, match="a trace id is not 32 hexadecimal digits"):
            await client.add_span(span)
        await client.close()

    asyncio.run(add())
    assert counters(server)["spans_stored"] == 0
