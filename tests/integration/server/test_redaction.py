"""Whatever reaches a server from outside loses its credentials there, before anything is stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentlightning.server.launcher import LightningStoreServer, ServerOptions
from agentlightning.store import wire
from agentlightning.store.url import open_store

if TYPE_CHECKING:
    from pathlib import Path

KEY = "ghp_" + "q1W2e3R4t5Y6" * 3


def otlp() -> ExportTraceServiceRequest:
    """Return a request with a key in every text that a span has."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="process.command").value.string_value = f"run --with {KEY}"
    scope = resource.scope_spans.add()
    scope.scope.name = f"scope {KEY}"
    span = scope.spans.add(trace_id=b"\x07" * 16, span_id=b"\x01" * 8, name=f"call {KEY}")
    span.start_time_unix_nano, span.end_time_unix_nano = 5, 9
    span.trace_state = f"v={KEY}"
    span.attributes.add(key="input").value.string_value = json.dumps({"content": json.dumps({"x": KEY})})
    span.attributes.add(key=f"attribute {KEY}").value.string_value = "x"
    values = span.attributes.add(key="values").value.array_value.values
    values.add().int_value = 1
    values.add().string_value = KEY
    nested = span.attributes.add(key="nested").value.kvlist_value.values.add(key="a")
    nested.value.string_value = KEY
    event = span.events.add(name=f"event {KEY}", time_unix_nano=6)
    event.attributes.add(key="exception.message").value.string_value = f"refused {KEY}"
    link = span.links.add(trace_id=b"\x08" * 16, span_id=b"\x02" * 8)
    link.attributes.add(key="why").value.string_value = KEY
    span.status.message = f"failed with {KEY}"
    return request


@pytest.mark.parametrize("content_type", [wire.PROTOBUF, wire.JSON])
def test_otlp_is_redacted_at_the_server(tmp_path: Path, content_type: str) -> None:
    """As protobuf and as JSON: no byte of the key is in any file of the store."""
    store = open_store(str(tmp_path / "x.db"))
    server = LightningStoreServer(store, "127.0.0.1", 0)
    server.options = ServerOptions(port=0)
    body = otlp().SerializeToString()
    if content_type == wire.JSON:
        from google.protobuf.json_format import MessageToDict

        message = MessageToDict(otlp())
        span = message["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        span.update(traceId="07" * 16, spanId="01" * 8)
        span["links"][0].update(traceId="08" * 16, spanId="02" * 8)
        body = json.dumps(message).encode()
    with server as running:
        answer = httpx.post(running.endpoint + "/v1/traces", content=body, headers={"content-type": content_type})
        assert answer.status_code == 200, answer.text
        assert httpx.get(running.endpoint + "/v1/statistics").json()["spans"] == 1
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path.name for path in files if KEY.encode() in path.read_bytes()]
        assert any(b"github-pat" in path.read_bytes() for path in files)
