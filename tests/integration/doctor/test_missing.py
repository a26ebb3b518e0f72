"""Events are lost: each step of the flow network, buffer, filters, sampling, storage, and a context left open."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from agentlightning.cli.doctor import reading
from agentlightning.cli.main import group
from agentlightning.pipeline.ledger import Ledger, ledger_folder
from agentlightning.pipeline.spill import spill_folders
from agentlightning.server.access import TokenFile
from agentlightning.server.launcher import LightningStoreServer, ServerOptions
from agentlightning.store import InMemoryLightningStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.doctor.conftest import Doctor, Programs

EMIT = "from agentlightning import emit_message\nfor number in range({}): emit_message('hello')\n"
HELD = """
import os, signal
from agentlightning import emit_message
from agentlightning.pipeline.process import get_pipeline
emit_message('first')
with get_pipeline().worker.busy:
"""


@pytest.fixture
def nowhere() -> str:
    """Give an address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def away(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a server that is not there as the store, and do not wait long for it."""
    monkeypatch.setenv("AGL_STORE", nowhere)
    monkeypatch.setenv("AGL_HTTP_RETRIES", "0")
    monkeypatch.setenv("AGL_FLUSH_TIMEOUT_S", "0.3")
    return nowhere


def lose(reason: str, number: int, isolated: Path) -> None:
    """Leave the counters of a process that lost *number* spans."""
    ledger = Ledger(ledger_folder(f"sqlite:///{isolated}/agentlightning.db", None))
    ledger.produced[0] = number
    ledger.count(reason, number)


def test_all_is_well_at_first(doctor: Doctor, programs: Programs) -> None:
    """Before and after a program that recorded something, no row is a problem."""
    assert not [row for row in doctor().values() if row.level == "fail"]
    programs.run(EMIT.format(3))
    rows = doctor()
    assert not [row for row in rows.values() if row.level == "fail"]
    assert "none of 3 spans of the newest" in rows["integrity"].found


def test_network_fails(doctor: Doctor, programs: Programs, away: str) -> None:
    """Flow, network: a server that does not answer; the spans of a program meanwhile wait on the disk, counted."""
    programs.run(EMIT.format(7))
    rows = doctor()
    assert (rows["network"].level, rows["store"].level) == ("fail", "fail")
    assert "agl store serve" in rows["network"].remedy
    assert away in rows["store"].found
    assert rows["spill"].level == "warn"
    assert rows["spill"].found.startswith("7 spans in 1 segment")
    assert "agl run" in rows["spill"].remedy


def test_network_is_well(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, serving: str) -> None:
    """Flow, network: a server that answers is a row with the time it took; nothing is encrypted on this machine."""
    monkeypatch.setenv("AGL_STORE", serving)
    rows = doctor()
    assert rows["network"].found.startswith("the server answers in ")
    assert (rows["store"].level, rows["store key"].level, rows["second server"].level) == ("ok", "ok", "note")
    assert "encryption" not in rows


@pytest.fixture
def serving() -> Iterator[str]:
    """Give the address of a server of an empty store."""
    with LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0) as running:
        yield running.endpoint


def test_wrong_key(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow, network: a server that wants a key says so, and the remedy is the variable; the key is never printed."""
    tokens = tmp_path / "tokens"
    made = CliRunner().invoke(group, ["store", "token", str(tokens), "--name", "me"])
    assert made.exit_code == 0
    server = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    server.options = ServerOptions(port=0, tokens=TokenFile(tokens))
    monkeypatch.setenv("AGL_STORE_TOKEN", "agl_not-the-right-one")
    with server as running:
        monkeypatch.setenv("AGL_STORE", running.endpoint)
        row = doctor()["store"]
    assert row.level == "fail"
    assert "AGL_STORE_TOKEN" in row.remedy
    assert "not-the-right-one" not in str(row)


def test_certificate_and_encryption(doctor: Doctor, away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate file that is not there, and a server elsewhere without encryption, are rows with the remedy."""
    monkeypatch.setenv("AGL_STORE_CA", "/nowhere/ca.pem")
    row = doctor()["certificate"]
    assert (row.level, "/nowhere/ca.pem cannot be read" in row.found) == ("fail", True)
    monkeypatch.delenv("AGL_STORE_CA")
    monkeypatch.setenv("AGL_HTTP_TIMEOUT_S", "0.1")
    monkeypatch.setenv("AGL_STORE", "http://user:hunter2@192.0.2.1:4747")
    rows = doctor()
    assert (rows["encryption"].level, "--tls-cert" in rows["encryption"].remedy) == ("warn", True)
    assert "hunter2" not in str(rows)


def test_buffer_is_full(doctor: Doctor, programs: Programs) -> None:
    """Flow, buffer, and table, serious loss: the queue overflowed; its size is the remedy."""
    code = HELD + "    for number in range(2000): emit_message('x' * 500)\n"
    programs.run(code, AGL_QUEUE_BYTES="65536", AGL_QUEUE_POLICY="DROP_OLDEST")
    row = doctor()["buffer"]
    assert row.level == "fail"
    assert "lost because the queue was full" in row.found
    assert not row.found.startswith("0 spans")
    assert "AGL_QUEUE_BYTES" in row.remedy
    assert "AGL_QUEUE_BLOCK_MS" in row.remedy


def test_losses_of_a_run_are_known(doctor: Doctor) -> None:
    """What agl run has reported at its end, and then forgot, is still in the rows: the rollout has noted it."""
    code = "from agentlightning import emit_message\nfor number in range(4): emit_message('x')"
    command = [sys.executable, "-m", "agentlightning.cli", "run", sys.executable, "-c", code]
    environment = {**os.environ, "AGL_SAMPLE_RULES": "agentlightning.message=drop"}
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)
    rows = doctor()
    assert rows["filter rules"].found.startswith("4 spans left out by rules")
    assert rows["spans"].found.endswith("lost by the newest rollouts: 4 filtered")
    assert rows["spans"].level == "ok"  # it was asked for


def test_buffer_policy_loses(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow, buffer: a policy that throws away is named before it has."""
    monkeypatch.setenv("AGL_QUEUE_POLICY", "DROP_OLDEST")
    assert doctor()["buffer policy"].level == "warn"


def test_filters_are_strict(doctor: Doctor, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow, filter rules: what a rule left out is counted, and the rule is named."""
    monkeypatch.setenv("AGL_SAMPLE_RULES", "agentlightning.message=drop")
    programs.run(EMIT.format(5))
    row = doctor()["filter rules"]
    assert row.level == "warn"
    assert row.found == "5 spans left out by rules; AGL_SAMPLE_RULES=agentlightning.message=drop"
    assert row.remedy == "relax or unset AGL_SAMPLE_RULES"
    monkeypatch.setenv("AGL_ENABLED", "0")
    monkeypatch.setenv("AGL_RATE_LIMIT", "5")
    assert "AGL_ENABLED=0 turns everything off" in doctor()["filter rules"].found


def test_sampling_is_low(doctor: Doctor, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow, sampling rate: too low; the share that is kept and the remedy are there."""
    monkeypatch.setenv("AGL_SAMPLE_RATE", "0.25")
    programs.run(EMIT.format(2))
    row = doctor()["sampling"]
    assert (row.level, row.found.partition(";")[0]) == ("warn", "25% of the traces are kept")
    assert "AGL_SAMPLE_RATE=1" in row.remedy


def test_storage_is_broken(doctor: Doctor, isolated: Path) -> None:
    """Flow, storage system: a file that is no store is said, with what to do, and stays as it is."""
    path = isolated / "agentlightning.db"
    path.write_bytes(b"no database at all" * 100)
    rows = doctor()
    assert (rows["storage"].level, rows["store"].level) == ("fail", "fail")
    assert "agl store verify" in rows["storage"].remedy
    assert path.read_bytes() == b"no database at all" * 100


def test_store_of_a_newer_release(doctor: Doctor, programs: Programs, isolated: Path) -> None:
    """Flow, storage system: a store of a newer release is refused untouched, and the upgrade is the remedy."""
    programs.run(EMIT.format(1))
    with sqlite3.connect(isolated / "agentlightning.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert doctor()["store"].remedy == "pip install --upgrade agentlightning"


@pytest.mark.parametrize(
    ("reason", "what", "remedy"),
    [
        ("disk_full", "storage", "agl store prune"),
        ("store_error", "storage", "agl store verify"),
        ("rejected", "refused", "AGL_LOG_LEVEL=WARNING"),
        ("too_large", "refused", "AGL_LOG_LEVEL=WARNING"),
        ("redactor_failed", "refused", "AGL_LOG_LEVEL=WARNING"),
    ],
)
def test_losses_by_reason(doctor: Doctor, isolated: Path, reason: str, what: str, remedy: str) -> None:
    """Loss protection, recorded losses, and protocol layer: each reason of the ledger is in a row with a remedy."""
    lose(reason, 6, isolated)
    row = doctor()[what]
    assert row.level == "fail"
    assert "6 " in row.found
    assert remedy in row.remedy
    assert f"6 {reason}" in doctor()["spans"].found


def test_killed(doctor: Doctor, programs: Programs) -> None:
    """Spans that were under way when their process was killed are counted, with the setting that keeps them."""
    code = HELD + "    for number in range(9): emit_message('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    programs.run(code, killed=True)
    row = doctor()["killed"]
    assert row.level == "fail"
    assert row.found.startswith(("9 spans", "10 spans"))
    assert "AGL_DURABILITY=SYNC" in row.remedy


def test_context_is_left_open(doctor: Doctor, programs: Programs) -> None:
    """002, trace data missing, and flow, context management: a context whose process ended without closing it."""
    programs.run(
        "import os\n"
        "from agentlightning import OtelTracer\n"
        "from agentlightning.pipeline.process import flush\n"
        "OtelTracer().trace_context('left open').__enter__()\n"
        "flush(10)\n"
        "os._exit(0)\n"
    )
    row = doctor()["context"]
    assert row.level == "warn"
    assert row.found.startswith("1 rollout and ")
    assert "with tracer.trace_context" in row.remedy


def test_rollout_without_spans(doctor: Doctor) -> None:
    """002, trace data missing: a rollout that ended well and in which nothing was recorded."""
    command = [sys.executable, "-m", "agentlightning.cli", "run", sys.executable, "-c", "pass"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    row = doctor()["context"]
    assert row.level == "warn"
    assert row.found.startswith("1 rollout ended without a single span")


def test_spilled_and_damaged(doctor: Doctor, programs: Programs, away: str) -> None:
    """Transport layer: a record of a segment whose checksum is wrong is counted; the others are still there."""
    programs.run(EMIT.format(20))
    segment = next(path for folder in spill_folders(away) for path in folder.segments())
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(bytes(content))
    row = doctor()["spill checksums"]
    assert row.level == "fail"
    assert "1 record" in row.found
    assert str(segment) in row.found


def test_nothing_is_persisted(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss protection, persistence off: without spills, what a store cannot take is lost; said before it happens."""
    monkeypatch.setenv("AGL_SPILL_BYTES", "0")
    row = doctor()["spill"]
    assert (row.level, row.remedy) == ("warn", "unset AGL_SPILL_BYTES")


def test_spill_reaches_its_cap(doctor: Doctor, programs: Programs, away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss protection, disk: a spill that is more than half full is a problem before it loses anything."""
    programs.run(EMIT.format(50))
    size = sum(folder.used_bytes() for folder in spill_folders(away))
    monkeypatch.setenv("AGL_SPILL_BYTES", str(size + 1))
    row = doctor()["spill"]
    assert row.level == "fail"
    assert "AGL_SPILL_BYTES" in row.remedy
    assert os.environ["AGL_STORE"] == away


def test_a_large_store_is_looked_at_in_part(
    doctor: Doctor, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only about 20,000 spans are read, so a look stays quick; rollouts that were not read are not taken for empty."""
    command = [sys.executable, "-m", "agentlightning.cli", "run", sys.executable, "-c", EMIT.format(3)]
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    monkeypatch.setattr(reading, "MOST_SPANS", 2)
    rows = doctor()
    assert "none of 2 spans" in rows["integrity"].found
    assert rows["context"].level == "ok"
