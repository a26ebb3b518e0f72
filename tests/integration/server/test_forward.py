"""Sending committed spans on to an OTLP backend: whatever it answers, whenever we are killed, every span arrives."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import threading
import time
from collections import Counter
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from agentlightning.errors import AccessError, SettingError, StoreUnavailableError
from agentlightning.server.forward import CursorFile, Forwarder, ForwardOptions, OtlpTarget
from agentlightning.server.forward.target import retry_after_s, traces_url
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import EventRecord, LinkRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentlightning.types.tracer import Span

QUICK = ForwardOptions(batch_spans=10, first_pause_s=0.01, longest_pause_s=0.02, patience_s=2.0)


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans like an OpenTelemetry collector, or fails as the test says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        message = ExportTraceServiceRequest.FromString(body)
        names = [span.name for r in message.resource_spans for s in r.scope_spans for span in s.spans]
        server.seen.append((time.monotonic(), dict(self.headers), names))
        status, headers, answer = server.decide(names)
        if status == 0:
            self.close_connection = True
            return
        if 200 <= status < 300:
            server.taken.extend(names)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


Decision = tuple[int, dict[str, str], bytes]
OK: Decision = (200, {}, b"")


class Backend:
    """A collector in a thread: what it saw and took, and how it answers."""

    def __init__(self, server: Any) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}"
        self._server = server
        server.seen, server.taken = [], []
        self._targets: list[OtlpTarget] = []
        self.answers([])

    def target(self, url: str | None = None, **how: Any) -> OtlpTarget:
        """Return a target at this backend, or at *url*, that is closed with it."""
        self._targets.append(OtlpTarget(url or self.url, **how))
        return self._targets[-1]

    def close(self) -> None:
        """Close the connections to it."""
        for target in self._targets:
            target.close()

    @property
    def taken(self) -> list[str]:
        return self._server.taken

    @property
    def seen(self) -> list[tuple[float, dict[str, str], list[str]]]:
        return self._server.seen

    def answers(self, answers: list[Decision]) -> None:
        """Give these answers in turn, then take everything."""

        def decide(_names: list[str]) -> Decision:
            return answers.pop(0) if answers else OK

        self._server.decide = decide

    def decides(self, decide: Callable[[list[str]], Decision]) -> None:
        """Answer what *decide* says of the names of the spans."""
        self._server.decide = decide


@pytest.fixture
def backend() -> Iterator[Backend]:
    """Run a collector."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made = Backend(server)
    yield made
    made.close()
    server.shutdown()
    thread.join()
    server.server_close()


def fill(store: SqliteLightningStore | InMemoryLightningStore, count: int, rollout: str = "ro-1") -> list[str]:
    """Store *count* ended spans and an open one, and return the names of the ended ones."""
    spans = [record_of(rollout, f"at-{rollout}", number, name=f"{rollout} {number}") for number in range(1, count + 1)]
    still = record_of(rollout, f"at-{rollout}", 9999, name="open")
    still.end_ns = None
    store.write_batch(WriteBatch(spans=[*spans, still]))
    return [span.name for span in spans]


async def test_another_store_gets_the_same_spans(tmp_path: Path, backend: Backend) -> None:
    """What arrives in a store of ours by OTLP equals what was sent: owner, ids, attributes of every type, resource."""
    source, sink = SqliteLightningStore(tmp_path / "source.db"), InMemoryLightningStore()
    odd = {"text": "ü\ud800", "flag": True, "whole": 2**62, "huge": 2**70, "nan": float("inf"), "ids": list(range(40)),
           "none": None, "nested": {"a": [1, {"b": 2.5}]}, "empty": []}  # fmt: skip
    span = record_of("ro-1", "at-1", 1, attributes=odd)
    span.events = [EventRecord("happened", span.start_ns + 5, {"k": "v"})]
    span.links = [LinkRecord("ab" * 16, "cd" * 8, {"k": 1}, "a=b")]
    span.kind, span.status_code, span.status_description = "CLIENT", "ERROR", "no"
    source.write_batch(WriteBatch(spans=[span, record_of("ro-2", "at-2", 2, parent_id=span.span_id)]))
    with LightningStoreServer(sink, "127.0.0.1", 0) as server:
        counts = await Forwarder(source, backend.target(server.endpoint)).run_once()
        assert counts.line() == "2 spans sent"
        for rollout_id in ("ro-1", "ro-2"):
            sent = [shown(item) for item in await source.query_spans(rollout_id)]
            assert [shown(item) for item in await sink.query_spans(rollout_id)] == sent
    source.close()


def shown(span: Span) -> dict[str, Any]:
    """Return what a receiver can know of a span."""
    attributes = {key: str(value) if key == "huge" else value for key, value in span.attributes.items()}
    fields = span.model_dump(mode="python", exclude={"counter", "process", "attributes", "sequence_id"})
    return {**fields, "attributes": attributes}


async def test_every_span_is_sent_once_and_a_later_run_goes_on(tmp_path: Path, backend: Backend) -> None:
    """A run sends what ended, the next one only what is new, and none begins anew unless the store is another one."""
    store, target = SqliteLightningStore(tmp_path / "store.db"), backend.target()
    cursor = CursorFile.beside(store, target.url)
    names = fill(store, 25)
    for _ in range(2):
        counts = await Forwarder(store, target, cursor=cursor, options=QUICK).run_once()
    assert Counter(backend.taken) == Counter(names)
    assert cursor.path.stat().st_mode & 0o777 == 0o600
    late = record_of("ro-1", "at-ro-1", 9999, name="ended now")
    store.write_batch(WriteBatch(spans=[late]))
    again = SqliteLightningStore(tmp_path / "store.db")
    counts = await Forwarder(again, target, cursor=CursorFile(cursor.path), options=QUICK).run_once()
    assert (counts.sent, backend.taken[-1]) == (1, "ended now")
    other = SqliteLightningStore(tmp_path / "other.db")
    fill(other, 3, "ro-2")
    counts = await Forwarder(other, target, cursor=CursorFile(cursor.path), options=QUICK).run_once()
    assert counts.sent == 3
    assert max(len(names) for _, _, names in backend.seen) == QUICK.batch_spans
    for opened in (store, again, other):
        opened.close()


async def test_trouble_is_waited_for_and_nothing_is_lost(tmp_path: Path, backend: Backend) -> None:
    """Resets, 429, 502 to 504 and 500 are tried again, Retry-After in seconds is kept to, and all spans arrive."""
    store = SqliteLightningStore(tmp_path / "store.db")
    names = fill(store, 30)
    busy: list[Decision] = [(0, {}, b""), (503, {}, b""), (429, {"retry-after": "0.3"}, b""), (502, {}, b"<html>"),
                            (504, {}, b""), (500, {}, b"oops"), (408, {}, b"")]  # fmt: skip
    backend.answers(busy)
    counts = await Forwarder(store, backend.target(), options=QUICK).run_once()
    assert Counter(backend.taken) == Counter(names)
    assert (counts.sent, counts.retries, counts.skipped) == (30, 7, {})
    assert backend.seen[3][0] - backend.seen[2][0] >= 0.3
    store.close()


async def test_what_is_never_taken_is_skipped_and_counted(tmp_path: Path, backend: Backend) -> None:
    """A span that the backend refuses, finds too large, or fails at does not keep the others from arriving."""
    store = SqliteLightningStore(tmp_path / "store.db")
    names = fill(store, 30)
    bad = {names[3]: 400, names[17]: 413, names[22]: 500}

    def decide(sent: list[str]) -> Decision:
        found = [bad[name] for name in sent if name in bad]
        return (found[0], {}, b"") if found else OK

    backend.decides(decide)
    counts = await Forwarder(store, backend.target(), options=QUICK).run_once()
    assert Counter(backend.taken) == Counter(name for name in names if name not in bad)
    assert counts.skipped == {"status 400": 1, "too large": 1, "status 500": 1}
    store.close()


async def test_a_backend_that_refuses_everything_is_not_asked_for_each_span(tmp_path: Path, backend: Backend) -> None:
    """When one span after the other is refused, the rest of the batch is skipped with the same reason."""
    store = SqliteLightningStore(tmp_path / "store.db")
    fill(store, 500)
    backend.decides(lambda _names: (415, {}, b""))
    counts = await Forwarder(store, backend.target()).run_once()
    assert counts.skipped == {"status 415": 500}
    assert len(backend.seen) < 50
    store.close()


async def test_partial_success_is_counted(tmp_path: Path, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Spans that a backend rejects of a request that it takes are counted and named in the log, and not sent again."""
    store = SqliteLightningStore(tmp_path / "store.db")
    fill(store, 10)
    partial = ExportTraceServiceResponse()
    partial.partial_success.rejected_spans, partial.partial_success.error_message = 4, "too old"
    backend.answers([(200, {}, partial.SerializeToString())])
    counts = await Forwarder(store, backend.target()).run_once()
    assert (counts.sent, counts.rejected, len(backend.seen)) == (6, 4, 1)
    assert "rejected 4 of 10 spans: too old" in caplog.text
    store.close()


async def test_wrong_credentials_lose_nothing(tmp_path: Path, backend: Backend) -> None:
    """A backend that answers 401 or is not there ends the run with one line, and the next one sends everything."""
    store = SqliteLightningStore(tmp_path / "store.db")
    names = fill(store, 5)
    cursor = CursorFile(tmp_path / "cursor")
    backend.answers([(401, {}, b"")])
    with pytest.raises(AccessError, match="does not take spans: status 401"):
        await Forwarder(store, backend.target(), cursor=cursor, options=QUICK).run_once()
    backend.decides(lambda _names: (500, {}, b""))
    with pytest.raises(StoreUnavailableError, match="fails"):
        await Forwarder(store, backend.target(), cursor=cursor, options=QUICK).run_once()
    backend.answers([])
    assert not cursor.path.exists()
    impatient = ForwardOptions(first_pause_s=0.01, patience_s=0.05)
    with pytest.raises(StoreUnavailableError, match="takes nothing now"):
        await Forwarder(store, backend.target("http://127.0.0.1:9"), cursor=cursor, options=impatient).run_once()
    await Forwarder(store, backend.target(), cursor=cursor, options=QUICK).run_once()
    assert backend.taken == names
    store.close()


async def test_a_sign_in_is_renewed(tmp_path: Path, backend: Backend) -> None:
    """Headers are asked for before each request, and once more when the backend no longer knows them."""
    store = SqliteLightningStore(tmp_path / "store.db")
    fill(store, 5)
    token = ["old"]

    def renew() -> None:
        token[0] = "new"

    target = backend.target(headers=lambda: {"authorization": token[0]}, on_unauthorized=renew)
    backend.answers([(401, {}, b"")])
    counts = await Forwarder(store, target).run_once()
    assert counts.sent == 5
    assert [headers["authorization"] for _, headers, _ in backend.seen] == ["old", "new"]
    store.close()


async def test_only_what_is_wanted_is_sent(tmp_path: Path, backend: Backend) -> None:
    """A filter sees the shape of each span; requests are compressed, and bounded in bytes."""
    store = SqliteLightningStore(tmp_path / "store.db")
    fill(store, 5)
    wanted = fill(store, 5, "ro-2")
    options = ForwardOptions(batch_bytes=1)
    counts = await Forwarder(
        store, backend.target(), wants=lambda row: row.rollout_id == "ro-2", options=options
    ).run_once()
    assert (counts.sent, backend.taken, counts.requests) == (5, wanted, 5)
    store.close()


async def test_following_sends_what_comes_and_survives_a_backend_that_goes(tmp_path: Path, backend: Backend) -> None:
    """While it follows, new spans arrive soon; refusals and outages are waited for; stop ends it."""
    store = SqliteLightningStore(tmp_path / "store.db")
    names = fill(store, 5)
    forwarder = Forwarder(store, backend.target(), cursor=CursorFile(tmp_path / "cursor"), options=QUICK)
    backend.answers([(401, {}, b""), (0, {}, b"")])
    running = asyncio.create_task(forwarder.follow())
    await until(lambda: len(backend.taken) >= 5)
    names += fill(store, 5, "ro-2")
    await until(lambda: len(backend.taken) >= 10)
    forwarder.stop()
    counts = await asyncio.wait_for(running, 5)
    assert (Counter(backend.taken), counts.sent) == (Counter(names), 10)
    store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_addresses_and_pauses() -> None:
    """The path of traces is added where it is missing, passwords are refused, and Retry-After may be a date."""
    assert traces_url("http://host:4318") == "http://host:4318/v1/traces"
    assert traces_url("https://host/api/otel/?a=b") == "https://host/api/otel/v1/traces?a=b"
    assert traces_url("https://host/v1/traces") == "https://host/v1/traces"
    for wrong in ("host:4318", "ftp://host", "http://user:word@host"):
        with pytest.raises(SettingError):
            traces_url(wrong)
    with pytest.raises(SettingError, match="certificates"):
        OtlpTarget("https://host", ca_file="/nowhere.pem")
    assert 55 < retry_after_s(formatdate(time.time() + 60, usegmt=True)) < 61
    assert [retry_after_s(text) for text in ("", "soon", "nan", "-3", "1e9", "2.5")] == [0, 0, 0, 0, 300, 2.5]
