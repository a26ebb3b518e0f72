"""Ids that look like paths: they are only ids, in every command that reads, and no file appears where none belongs."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentlightning.cli.main import group
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import SqliteLightningStore, wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDS = [
    "../../x", "..\\..\\x", "%2e%2e%2fx", "/etc/x", "CON", "nul.txt", "a\x00b", "a\nb", "..", "~root", "x" * 4096,
    "ro-\u2024\u2024\u2215x", "ro-../../../x", "file:///x", "C:\\x", "link/x",
]  # fmt: skip


def message(rollout_id: str, number: int) -> bytes:
    """Return an OTLP request with one span of a rollout."""
    request = ExportTraceServiceRequest()
    trace_id, span_id = number.to_bytes(16, "big"), number.to_bytes(8, "big")
    span = request.resource_spans.add().scope_spans.add().spans.add(trace_id=trace_id, span_id=span_id, name="step")
    span.start_time_unix_nano, span.end_time_unix_nano = 5, 9
    for key, value in (("agentlightning.rollout_id", rollout_id), ("agentlightning.attempt_id", f"at-{rollout_id}")):
        span.attributes.add(key=key).value.string_value = value
    return request.SerializeToString()


def tree(folder: Path) -> dict[str, str]:
    """Return a hash of every file below *folder*, links not followed."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    """Serve a store in a folder of its own, deep in another one, with a link that leads out."""
    folder = tmp_path / "a" / "b" / "store"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "x").write_text("somebody else's")
    store = SqliteLightningStore(folder / "s.db")
    with (
        LightningStoreServer(store, "127.0.0.1", 0) as running,
        httpx.Client(base_url=running.endpoint, timeout=10) as client,
    ):
        yield client
    store.close()


def test_no_id_leads_out_of_its_folder(http: httpx.Client, tmp_path: Path) -> None:
    """What is sent, read and exported under such ids leaves every other file alone; the ids are shown as they came."""
    store = tmp_path / "a" / "b" / "store"
    outside = {name: digest for name, digest in tree(tmp_path).items() if not name.startswith("a/b/store/")}
    headers = {"content-type": wire.PROTOBUF}
    for number, rollout_id in enumerate(IDS, 1):
        assert http.post("/v1/traces", content=message(rollout_id, number), headers=headers).status_code == 200
        for path in ("", "/spans", "/attempts", "/children", "/span-rows"):
            answer = http.get(f"/v1/rollouts/{quote(rollout_id, safe='')}{path}")
            assert answer.status_code in {200, 404, 405}, (rollout_id, path, answer.text)
    kept = {rollout["rollout_id"] for rollout in http.get("/v1/rollouts/newest", params={"limit": 100}).json()}
    assert len(kept) == len(IDS)
    target = store / "out"
    target.mkdir()
    arguments = ["export", "--format", "atif", "-o", f"{target}/", "--store", str(store / "s.db")]
    done = CliRunner().invoke(group, arguments, standalone_mode=False)
    assert done.exception is None, done.exception
    files = list(target.rglob("*"))
    assert len(files) == len(IDS)
    assert all(path.parent == target for path in files)
    assert all(json.loads(path.read_text()) for path in files)
    for rollout_id in IDS[:6]:
        shown = CliRunner().invoke(group, ["show", rollout_id, "--store", str(store / "s.db")])
        assert rollout_id in shown.output
    assert {name: digest for name, digest in tree(tmp_path).items() if not name.startswith("a/b/store/")} == outside
