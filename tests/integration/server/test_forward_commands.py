"""``agl store forward``, ``agl store serve --forward-otlp`` and ``agl export --otlp`` as programs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from agentlightning.cli.main import main
from agentlightning.cli.otlp import headers_of
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AGL = [sys.executable, "-m", "agentlightning.cli"]


@pytest.fixture
def sink() -> Iterator[LightningStoreServer]:
    """Serve an empty store, which gets the spans."""
    with LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SqliteLightningStore]:
    """Keep three rollouts, one inside another, with two spans each."""
    store = SqliteLightningStore(tmp_path / "source.db")
    outer = asyncio.run(store.start_rollout("outer"))
    inner = asyncio.run(store.start_rollout("inner", metadata={"parent_rollout_id": outer.rollout_id}))
    for number, rollout in enumerate((outer, inner, asyncio.run(store.start_rollout("other")))):
        ids = rollout.rollout_id, rollout.attempt.attempt_id
        store.write_batch(WriteBatch(spans=[record_of(*ids, 10 * number + place) for place in (1, 2)]))
    yield store
    store.close()


def spans_in(server: LightningStoreServer) -> int:
    """Return how many spans the served store holds."""
    return asyncio.run(server.statistics()).spans


def call(*arguments: str) -> int:
    """Run ``agl`` in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_export_sends_what_is_named(
    source: SqliteLightningStore, sink: LightningStoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rollout goes with those inside it, without names all go, and --since leaves out what is older."""
    to = ["export", "--store", str(source.url), "--otlp", sink.endpoint]
    oldest = asyncio.run(source.query_rollouts())[0].rollout_id
    assert call(*to, oldest) == 0
    assert capsys.readouterr().err == f"agl: 4 spans sent to {sink.endpoint}/v1/traces\n"
    assert spans_in(sink) == 4
    assert call(*to) == 0
    assert (spans_in(sink), "6 spans sent" in capsys.readouterr().err) == (6, True)
    time.sleep(0.01)
    assert call(*to, "--since", "0.005s") == 0
    assert "0 spans sent" in capsys.readouterr().err


def test_wrong_arguments_are_one_line(source: SqliteLightningStore, capsys: pytest.CaptureFixture[str]) -> None:
    """No destination, an unknown rollout, a header without value and a refusing backend end with 2 and say why."""
    store = ["--store", str(source.url)]
    for arguments, words in (
        (["export", *store], "or --otlp URL"),
        (["export", *store, "--otlp", "http://127.0.0.1:9", "nothing"], "there is no rollout 'nothing'"),
        (["export", *store, "--otlp", "localhost:9"], "no address of an OTLP backend"),
        (["store", "forward", *store, "--otlp", "http://127.0.0.1:9", "--header", "secret"], "NAME=VALUE"),
    ):
        assert call(*arguments) == 2
        assert words in capsys.readouterr().err


def test_headers_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's variable is read, and an option wins over it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20abc=, x-a=1")
    assert headers_of(("X-A=2",)) == {"authorization": "Basic abc=", "x-a": "2"}


def test_forward_goes_on_after_a_kill(source: SqliteLightningStore, sink: LightningStoreServer) -> None:
    """Killed while it follows and started again, the service sends what is new; --once ends by itself."""
    command = [*AGL, "store", "forward", "--store", str(source.url), "--otlp", sink.endpoint]
    running = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_for(lambda: spans_in(sink) == 6)
    running.kill()
    running.communicate()
    source.write_batch(WriteBatch(spans=[record_of("ro-new", "at-new", 99)]))
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: spans_in(sink) == 7)
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=60)[1]
    assert (running.returncode, "agl: " in said.splitlines()[-1]) == (0, True)
    once = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=60, check=False)
    assert (once.returncode, once.stderr) == (0, f"agl: 0 spans sent to {sink.endpoint}/v1/traces\n")


def test_a_server_forwards_beside_serving(source: SqliteLightningStore, sink: LightningStoreServer) -> None:
    """What a server commits goes on to the backend that it was given, and the counts are in its metrics."""
    command = [*AGL, "store", "serve", "--store", str(source.url), "--port", "0", "--forward-otlp", sink.endpoint]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert server.stderr is not None
    lines = [server.stderr.readline(), server.stderr.readline()]
    url = next(line.split()[-1] for line in lines if line.startswith("serving"))
    wait_for(lambda: spans_in(sink) == 6)
    wait_for(lambda: "agentlightning_forward_sent_total 6" in httpx.get(f"{url}/metrics").text)
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 403
    server.send_signal(signal.SIGINT)
    said = server.communicate(timeout=60)[1]
    assert "6 spans sent" in said
    assert '["refused", "127.0.0.1", "GET", "/", 403' in said


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
