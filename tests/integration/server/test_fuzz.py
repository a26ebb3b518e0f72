"""Bodies that nobody would write by hand: whatever is sent, the server answers below 500 and goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import InMemoryLightningStore, wire
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENT = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
    | st.sampled_from(["ab" * 16, "cd" * 8, "latest", "succeeded", "1700000000000000000", "-1", ""])
)  # fmt: skip
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """Open a client of an empty store."""
    with (
        LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0) as server,
        httpx.Client(base_url=server.endpoint, timeout=20) as client,
    ):
        yield client


def mutated(value: Any, data: st.DataObject) -> Any:
    """Return *value* with one part of it replaced by anything, or left out."""
    if isinstance(value, dict):
        return _mutated_dict(cast("dict[str, Any]", value), data)
    if isinstance(value, list):
        return _mutated_list(cast("list[Any]", value), data)
    return data.draw(values)


def _mutated_dict(value: dict[str, Any], data: st.DataObject) -> Any:
    if value and data.draw(st.integers(0, 9)):
        key = data.draw(st.sampled_from(sorted(value)))
        if not data.draw(st.integers(0, 5)):
            return {name: item for name, item in value.items() if name != key}
        return value | {key: mutated(value[key], data)}
    return data.draw(values)


def _mutated_list(value: list[Any], data: st.DataObject) -> Any:
    if value and data.draw(st.integers(0, 9)):
        place = data.draw(st.integers(0, len(value) - 1))
        return [*value[:place], mutated(value[place], data), *value[place + 1 :]]
    return data.draw(values)


SPAN: dict[str, Any] = {
    "traceId": "ab" * 16, "spanId": "cd" * 8, "parentSpanId": "ef" * 8, "name": "n", "kind": 3, "traceState": "a=b",
    "startTimeUnixNano": "5", "endTimeUnixNano": "9", "status": {"code": 2, "message": "no"},
    "attributes": [{"key": "k", "value": {"stringValue": "v"}}, {"key": "a", "value": {"arrayValue": {"values": []}}}],
    "events": [{"name": "e", "timeUnixNano": "6", "attributes": []}],
    "links": [{"traceId": "ab" * 16, "spanId": "cd" * 8}],
}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"scope": {"name": "s"}, "spans": [SPAN]}]}]
}
BODIES: dict[str, Any] = {
    "/v1/rollouts/start": {"input": 1, "mode": "train", "config": {"max_attempts": 2}, "metadata": {"a": 1}},
    "/v1/rollouts/enqueue": {"inputs": [1], "mode": None, "resources_id": "rs-1", "config": None, "metadata": None},
    "/v1/rollouts/dequeue": {"worker_id": "w", "lease_s": 1.5},
    "/v1/rollouts/query": {"status": ["failed"], "rollout_ids": ["x"], "where": {"metadata": {"a": 1}, "limit": 3}},
    "/v1/rollouts/wait": {"rollout_ids": ["x"], "timeout": 0},
    "/v1/rollouts/delete": {"rollout_ids": ["x"]},
    "/v1/rollouts/prune": {"before": 1.0, "keep": 3},
    "/v1/resources": {"resources": {"p": {"resource_type": "prompt_template", "template": "t", "engine": "f-string"}}},
}
PACKED: dict[str, Any] = {
    "/v1/batches": msgspec.to_builtins(WriteBatch(spans=[record_of("ro-1", "at-1", 1)])),
    "/v1/spans": [{"record": msgspec.to_builtins(record_of("ro-1", "at-1", 1)), "sequence_id": 1}],
    "/v1/spans/by-key": [["ab" * 16, "cd" * 8]],
    "/v1/changes": {"version": "", "span": 0, "rollout": 0, "open_spans": [["a", "b"]], "running": ["x"]},
}


def check(answer: httpx.Response) -> None:
    """The answer is no failure of the server, and says nothing of its insides."""
    assert answer.status_code < 500, (answer.status_code, answer.text[:500])
    assert "Traceback" not in answer.text


@PATIENT
@given(data=st.data())
def test_otlp_as_json(http: httpx.Client, data: st.DataObject) -> None:
    """A message of which any part is something else is taken, taken in part, or refused."""
    body = msgspec.json.encode(mutated(MESSAGE, data))
    check(http.post("/v1/traces", content=body, headers={"content-type": wire.JSON}))


@PATIENT
@given(path=st.sampled_from(sorted(BODIES)), data=st.data())
def test_arguments_as_json(http: httpx.Client, path: str, data: st.DataObject) -> None:
    """The arguments of every call may be anything."""
    body = msgspec.json.encode(mutated(BODIES[path], data))
    check(http.post(path, content=body, headers={"content-type": wire.JSON}))


@PATIENT
@given(path=st.sampled_from(sorted(PACKED)), data=st.data())
def test_arguments_as_messagepack(http: httpx.Client, path: str, data: st.DataObject) -> None:
    """So may what travels packed."""
    body = msgspec.msgpack.encode(mutated(PACKED[path], data))
    check(http.post(path, content=body, headers={"content-type": wire.MSGPACK}))


@PATIENT
@given(body=st.binary(max_size=300), encoding=st.sampled_from(["gzip", "deflate", "identity", "br", "gzip, gzip"]))
def test_bytes_that_are_no_compression(http: httpx.Client, body: bytes, encoding: str) -> None:
    """Bytes that claim a compression, and one that is not known, are refused; an empty body is an empty message."""
    answer = http.post(
        "/v1/traces", content=body, headers={"content-type": wire.PROTOBUF, "content-encoding": encoding}
    )
    check(answer)
