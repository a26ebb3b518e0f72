"""It has become slow, memory grows, spans come twice, a function behaves differently: a row for each cause."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from agentlightning._internal.ids import process_key
from agentlightning.cli.doctor import environment, trouble
from agentlightning.cli.doctor.reading import Reading, read
from agentlightning.pipeline.ledger import Ledger, ledger_folder
from agentlightning.semconv import ALERT
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import SqliteLightningStore
from agentlightning.types.record import EventRecord, ResourceRecord, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.doctor.conftest import Doctor, Programs


def span(number: int, **given: Any) -> SpanRecord:
    """Return a span of one rollout that ended a moment ago."""
    now = time.time_ns()
    fields: dict[str, Any] = {
        "rollout_id": "ro-1", "attempt_id": "at-1", "counter": number, "trace_id": f"{7:032x}",
        "span_id": f"{number:016x}", "name": "work", "start_ns": now - 10**9, "end_ns": now,
        "resource": ResourceRecord({}), "process": process_key(),
    }  # fmt: skip
    return SpanRecord(**(fields | given))


@pytest.fixture
def store(isolated: Path) -> Iterator[SqliteLightningStore]:
    """Give the default store."""
    opened = SqliteLightningStore(isolated / "agentlightning.db")
    yield opened
    opened.close()


@pytest.fixture
def ledger(isolated: Path) -> Ledger:
    """Give the counters of a process that lives: this one."""
    return Ledger(ledger_folder(f"sqlite:///{isolated}/agentlightning.db", None))


def test_network_latency_is_high(doctor: Doctor, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table, performance: a store that answers later than the threshold; a second server is the remedy."""
    programs.run("from agentlightning import emit_message\nemit_message('x')")
    monkeypatch.setenv("AGL_WATCH_LATENCY_S", "0.0000001")
    row = doctor()["store latency"]
    assert row.level == "fail"
    assert "names a second server" in row.remedy


def test_alerts_of_the_watch(doctor: Doctor, programs: Programs) -> None:
    """Resource table: what the watch noted in the trace (here: memory beyond its threshold) is a row."""
    programs.run(
        "import threading, time\n"
        "from agentlightning import configure, emit_message\n"
        "from agentlightning.pipeline.process import flush\n"
        "from agentlightning.pipeline.watch import add_alert_listener\n"
        "seen = threading.Event()\n"
        "add_alert_listener(lambda alert: seen.set())\n"
        "emit_message('x')\n"
        "flush(10)\n"
        "configure(watch_memory=0.0001)\n"
        "until = time.monotonic() + 10\n"
        "while not seen.wait(0.05) and time.monotonic() < until: emit_message('x')\n"
        "flush(10)\n"
    )
    row = doctor()["alert: memory"]
    assert row.level == "warn"
    assert "1 alert in the newest rollouts, see agl show ro-" in row.found
    assert "AGL_MEMORY_THRESHOLD" in row.remedy


def note_alert(store: SqliteLightningStore, name: str) -> None:
    """Write an alert of this name as the watch and the runner do, with names that no release knows too."""
    event = EventRecord(ALERT, 1, {"name": name, "value": 0.95, "threshold": 0.9})
    store.write_batch(WriteBatch(spans=[span(1, name=ALERT, events=[event])]))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("memory", "AGL_MEMORY_THRESHOLD"),
        ("cpu", "AGL_CPU_LOWERS_SAMPLING=1"),
        ("latency", "AGL_STORE=http://first:4747,http://second:4747"),
        ("errors", "AGL_LOG_LEVEL=ERROR"),
        ("tracing_rate", "AGL_FLUSH_TIMEOUT_S"),
        ("failure_rate", "agl show latest"),
        ("duration_s", "agl show latest"),
        ("\x1bnew", "agl tail"),
    ],
)
def test_each_alarm_rule(doctor: Doctor, store: SqliteLightningStore, name: str, remedy: str) -> None:
    """Resource table, memory, processors, latency and error rate, and a runner's: each has its row with its remedy."""
    assert doctor()["alerts"].level == "ok"
    note_alert(store, name)
    rows = doctor()
    row = next(each for what, each in rows.items() if what.startswith("alert: "))
    assert (row.level, "1 alert in the newest rollouts, see agl show ro-1" in row.found) == ("warn", True)
    assert remedy in row.remedy
    assert "alerts" not in rows
    assert row.what.isprintable()


def test_alerts_are_known_over_a_server(
    doctor: Doctor, store: SqliteLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's alerts are told apart too."""
    note_alert(store, "latency")
    with LightningStoreServer(store, "127.0.0.1", 0) as running:
        monkeypatch.setenv("AGL_STORE", running.endpoint)
        assert doctor()["alert: latency"].level == "warn"


@pytest.mark.parametrize(
    ("variable", "value"), [("AGL_DURABILITY", "SYNC"), ("AGL_QUEUE_POLICY", "BLOCK"), ("AGL_LOG_LEVEL", "DEBUG")]
)
def test_tracing_costs_too_much(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """002, performance: a setting that makes tracing dear is named; otherwise how to measure and lower it."""
    assert "agl bench measures it" in doctor()["tracing cost"].found
    monkeypatch.setenv(variable, value)
    row = doctor()["tracing cost"]
    assert (row.level, row.remedy) == ("warn", f"unset {variable}")


@pytest.mark.parametrize(
    ("avg10", "level", "found"),
    [("55.12", "warn", "waited for them 55 % of"), ("0.00", "ok", "waited for them 0 % of"), (None, "note", "not say")],
)
def test_bottleneck(tmp_path: Path, avg10: str | None, level: str, found: str) -> None:
    """Tuning flow, CPU-bound or I/O-bound: what programs waited for, as the system says it."""
    folder = tmp_path / "proc/pressure"
    folder.mkdir(parents=True)
    if avg10 is not None:
        for name in ("cpu", "io"):
            (folder / name).write_text(f"some avg10={avg10} avg60=0.00 avg300=0.00 total=1\n")
    rows = {row.what: row for row in trouble.slow(Reading("sqlite:////x.db", "default"), tmp_path)}
    for what in ("processors", "disk waits"):
        assert rows[what].level == level
        assert found in rows[what].found
        assert rows[what].remedy or level == "ok"


def test_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resource table and tuning flow, memory-bound: a machine above the threshold, and what bounds our part."""
    monkeypatch.setenv("AGL_WATCH_MEMORY", "0.8")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 50 kB\n")
    row = next(trouble.memory(Reading("sqlite:////x.db", "default"), tmp_path))
    assert (row.level, row.found.partition(":")[0]) == (
        "fail",
        "95% of the memory of this machine or container is used, more than 80%",
    )
    assert "AGL_MEMORY_THRESHOLD" in row.remedy


def test_what_waits_in_memory(doctor: Doctor, ledger: Ledger) -> None:
    """Table, memory leak: spans that a living program cannot deliver are counted and sized."""
    ledger.produced[0] = 20_000
    row = doctor()["waiting"]
    assert row.level == "fail"
    assert row.found.startswith("20,000 spans wait in memory, about 106.8 MB of at most 100 MB")
    assert doctor()["programs"].found.startswith("1 program writes now")


def test_spans_that_never_end(doctor: Doctor, store: SqliteLightningStore) -> None:
    """Table, objects not released; 002, resources not released: a span that a living process left open for hours."""
    store.write_batch(WriteBatch(spans=[span(1, counter=0, end_ns=None, start_ns=time.time_ns() - 2 * 3600 * 10**9)]))
    row = doctor()["open spans"]
    assert row.level == "warn"
    assert "1 span open for more than an hour" in row.found
    assert "end them in 'finally', or use 'with'" in row.remedy


def test_events_come_twice(doctor: Doctor, store: SqliteLightningStore, ledger: Ledger) -> None:
    """Table, duplicates: what a retry sends again is stored once, and the row says how many were recognised."""
    batch = WriteBatch(spans=[span(1)])
    for _ in range(2):
        result = store.write_batch(batch)
        ledger.produced[0] += 1
        ledger.count("stored", result.stored)
        ledger.count("duplicate", result.duplicate)
    row = doctor()["retries"]
    assert row.level == "ok"
    assert row.found.startswith("1 span was sent again and recognised")
    assert "of 1 spans" in doctor()["integrity"].found


def test_a_call_is_recorded_twice(doctor: Doctor, store: SqliteLightningStore) -> None:
    """Table, duplicates, and 002, conflicting callbacks: two instrumentors wrote the same answer of a model."""
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.response.id": "chatcmpl-1"}
    store.write_batch(WriteBatch(spans=[span(1, attributes=dict(attributes)), span(2, attributes=dict(attributes))]))
    row = doctor()["recorded twice"]
    assert row.level == "warn"
    assert row.found.startswith("1 answer of a model is in two spans")
    assert "AGL_INSTRUMENT=-NAME" in row.remedy


def test_a_call_inside_a_call_is_not_twice(doctor: Doctor, store: SqliteLightningStore) -> None:
    """A framework's span around a client's span of the same call is one call."""
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.response.id": "chatcmpl-1"}
    inner = span(2, attributes=dict(attributes), parent_id=f"{1:016x}")
    store.write_batch(WriteBatch(spans=[span(1, attributes=dict(attributes)), inner]))
    assert doctor()["recorded twice"].level == "ok"


@pytest.mark.parametrize(
    ("code", "line", "remedy"),
    [
        ("@rollout\ndef agent(task, model): ...", 2, "declare it as (task, llm)"),
        ("@agl.llm_rollout()\nasync def agent(question, llm): ...", 2, "declare it as agent(task, llm)"),
        ("class A:\n    @prompt_rollout\n    def go(task, prompt_template, *, extra): ...", 3, "give it a default"),
    ],
)
def test_decorator_fails(doctor: Doctor, tmp_path: Path, code: str, line: int, remedy: str) -> None:
    """002, decorator: a parameter with a wrong name is found in the program's text, which is not run."""
    file = tmp_path / "agent.py"
    file.write_text(f"{code}\nraise SystemExit('this ran')\n")
    row = doctor("--check", str(file))["decorator"]
    assert row.level == "fail"
    assert f"agent.py:{line} @" in row.found
    assert remedy in f"{row.found}; {row.remedy}"


def test_decorator_is_right(doctor: Doctor, tmp_path: Path) -> None:
    """002, decorator: functions that fit, with defaults and annotations that cannot be evaluated, are no problem."""
    file = tmp_path / "agent.py"
    file.write_text("@rollout\ndef a(task: Missing, llm, rollout=Nothing.here): ...\n\n\ndef b(x): ...\n")
    row = doctor("--check", str(file))["decorator"]
    assert (row.level, row.found) == ("ok", f"{file}: the parameters of 1 decorated functions are right")
    assert doctor()["decorator"].remedy == "agl doctor --check program.py"
    assert doctor("--check", str(tmp_path / "none.py"))["decorator"].level == "fail"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"x = (", "no Python program: '(' was never closed"),
        (b"\0", "no Python program: source code"),
        (b"(" * 5_000, "no Python program: "),
        (b"x = " + b"+".join([b"1"] * 30_000), ": "),
        (b"@rollout\ndef f(task, task, llm): ...", "duplicate parameter name"),
        (b"@rollout\ndef f(task, llm, x=open('/nonexistent')): ...", "are right"),
        (b"'\\d'\n", "are right"),
    ],
)
def test_no_text_stops_the_look(doctor: Doctor, tmp_path: Path, code: bytes, message: str) -> None:
    """What is no program, or too deeply nested to be read, is a row; nothing of a program is run."""
    file = tmp_path / "agent.py"
    file.write_bytes(code)
    assert message in doctor("--check", str(file))["decorator"].found


@pytest.mark.parametrize(
    ("code", "level"),
    [
        ("tracer.trace_context('x')", "fail"),
        ("with tracer.trace_context('x'): ...", "ok"),
        ("async def f():\n    async with tracer.trace_context('x'): ...", "ok"),
        ("stack.enter_context(tracer.trace_context('x'))", "ok"),
    ],
)
def test_context_is_not_entered(doctor: Doctor, tmp_path: Path, code: str, level: str) -> None:
    """002, flow, context management: a ``trace_context`` that nobody enters is found in the program's text."""
    file = tmp_path / "agent.py"
    file.write_text(code)
    row = doctor("--check", str(file))["context"]
    assert row.level == level
    assert level == "ok" or "with tracer.trace_context(...)" in row.remedy


@pytest.mark.parametrize("value", ["-openai", "smolagents"])
def test_a_library_is_left_out(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """002, flow, third-party integration: a library that a setting leaves out is said not to be traced."""
    assert doctor()["openai"].found.endswith("traced when it is imported")
    assert doctor()["library"].remedy.startswith("agl run --no-instrument NAME")
    monkeypatch.setenv("AGL_INSTRUMENT", value)
    row = doctor()["openai"]
    assert row.level == "warn"
    assert row.found.endswith(f"NOT traced: AGL_INSTRUMENT={value} leaves it out")
    monkeypatch.setenv("AGL_INSTRUMENT", "opnai")
    assert "there is no such instrumentor" in doctor()["instrumentors"].found


def test_integrity_in_the_store(doctor: Doctor, store: SqliteLightningStore, isolated: Path) -> None:
    """Integrity, application and storage layers: a span that breaks a rule, and one that was changed on the disk."""
    store.write_batch(
        WriteBatch(spans=[span(1, attributes={"agentlightning.integrity": ["end_before_start"]}, end_ns=1)])
    )
    store.write_batch(WriteBatch(spans=[span(2)]))
    row = doctor()["integrity"]
    assert (row.level, "it ends before it starts" in row.found) == ("fail", True)
    store.close()
    with sqlite3.connect(isolated / "agentlightning.db") as connection:
        connection.execute("UPDATE spans SET name = 'forged' WHERE span_id = ?", (f"{2:016x}",))
    connection.close()
    row = doctor()["checksums"]
    assert row.level == "fail"
    assert f"span {2:016x} of trace" in row.found
    assert "agl store verify" in row.remedy


def test_redaction_is_counted(doctor: Doctor, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Privacy: what was replaced in the newest rollout, by rule, never what it was; and whether rules are off."""
    programs.run("from agentlightning import emit_message\nemit_message('password=hunter2secret')")
    row = doctor()["redaction"]
    assert row.found.endswith("replaced in the newest rollout: 1 named")
    monkeypatch.setenv("AGL_REDACT", "0")
    assert (doctor()["redaction"].level, doctor()["redaction"].remedy) == ("warn", "unset AGL_REDACT")


def test_room_and_permission(
    doctor: Doctor, programs: Programs, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """002 and 004, storage space and access: a full disk and a file that others can read, with the commands."""
    programs.run("from agentlightning import emit_message\nemit_message('x')")
    monkeypatch.setattr("agentlightning.cli.doctor.storage.ROOM_BYTES", 2**62)
    path = isolated / "agentlightning.db"
    path.chmod(0o644)
    rows = doctor()
    assert (rows["disk"].level, rows["disk"].remedy) == ("fail", "agl store prune --older-than 30d && agl store vacuum")
    assert (rows["permission"].level, rows["permission"].remedy) == ("warn", f"chmod 600 {path}")


@pytest.mark.parametrize(("running", "level"), [((3, 9), "fail"), ((3, 10), "ok"), ((3, 14), "ok"), ((3, 15), "warn")])
def test_python_version(running: tuple[int, int], level: str) -> None:
    """002, limits, Python version: older ones cannot work, newer ones are not tried."""
    row = environment.python_finding(running)
    assert (row.level, bool(row.remedy)) == (level, level != "ok")


def test_versions_do_not_fit(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """002, limits, versions: a package that does not fit, and one that is missing, are named with the command."""
    assert doctor()["versions"].level == "ok"
    wanted = ["msgspec<0.1,>=0.0.1", "not-here-at-all>=1", 'openai<1; extra == "openai"', 'other>=1; extra == "x"']
    monkeypatch.setattr(environment, "requires", Mock(return_value=wanted))
    row = environment.version_finding()
    assert row.level == "fail"
    assert row.remedy == "pip install 'msgspec<0.1,>=0.0.1' 'not-here-at-all>=1' 'openai<1'"


@pytest.mark.parametrize(
    ("variable", "value", "what", "remedy"),
    [
        ("OTEL_SDK_DISABLED", "true", "provider", "unset OTEL_SDK_DISABLED"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off", "provider", "unset OTEL_TRACES_SAMPLER"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "64", "attribute limit", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=10000"),
        ("AGL_BATCH_SIZE", "many", "settings", "agl doctor --settings"),
    ],
)
def test_variables_that_break_tracing(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, what: str, remedy: str
) -> None:
    """Provider conflicts and settings: a variable by which spans are lost is a problem with its remedy."""
    monkeypatch.setenv(variable, value)
    row = doctor()[what]
    assert row.level == "fail"
    assert remedy in row.remedy


def test_another_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """002, limits, conflicts: another tracing package, and another instrumentor for the same library, are named."""
    here = {"logfire", "openai", "opentelemetry-instrumentation-openai"}

    def version_of(package: str) -> str | None:
        return "1.0" if package in here else None

    monkeypatch.setattr(environment, "_version_of", version_of)
    rows = {row.what: row for row in environment.provider_findings()}
    assert rows["provider"].found.startswith("Logfire may bring a tracer provider; it is joined")
    assert "opentelemetry-instrumentation-openai" in rows["traced twice"].found


def test_nothing_is_known_of_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading of a store whose name makes no sense has the problem in it and raises nothing."""
    reading = read("sqlite://nowhere", None)
    assert reading.problem is not None


async def test_a_queue_that_nobody_empties(doctor: Doctor, store: SqliteLightningStore) -> None:
    """Rollouts that wait while no runner works are a row; with one at work they are none."""
    await store.enqueue_rollout("one")
    await store.enqueue_rollout("two")
    row = await asyncio.to_thread(lambda: doctor()["queue"])
    assert (row.level, row.found.partition(",")[0]) == ("warn", "2 rollouts wait for a runner")
    assert "RUNNER" in row.remedy
    await store.dequeue_rollout()
    assert (await asyncio.to_thread(lambda: doctor()["queue"])).level == "ok"


def test_an_endpoint_is_asked(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program's own exporter sends: whether anybody listens there, without the password in the address."""
    assert doctor()["endpoint"].found.startswith("no OTLP endpoint is named")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://me:hunter2@127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        row = doctor()["endpoint"]
        assert (row.level, "nothing answers" in row.found, "hunter2" in str(row)) == ("warn", True, False)
        assert row.remedy.endswith("or unset OTEL_EXPORTER_OTLP_ENDPOINT")
        taken.listen()
        assert doctor()["endpoint"].level == "ok"
