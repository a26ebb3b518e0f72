"""agl doctor --live and --follow: a store that is being written now, and the way of one span."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner

from agentlightning import settings
from agentlightning.cli.doctor.live import quantile
from agentlightning.cli.main import group
from agentlightning.pipeline.frame import ENDED
from agentlightning.pipeline.segment import open_segment
from agentlightning.pipeline.spill import spill_folders
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import SqliteLightningStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.doctor.conftest import Programs

AGL = (sys.executable, "-m", "agentlightning.cli")
WRITER = """
import sys
from agentlightning.pipeline.process import flush
from agentlightning.tracer.provider import get_tracer
from opentelemetry.trace import Status, StatusCode
tracer = get_tracer()
for number in range(100):
    span = tracer.start_span("work")
    if number < 10:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
flush(10)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def writing(programs: Programs) -> Iterator[subprocess.Popen[str]]:
    """Give a program that has written 100 spans, 10 of them errors, and goes on living."""
    with programs.start(WRITER) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate("end\n", timeout=60)


def live(*arguments: str) -> dict[str, Any]:
    """Return the document of --live."""
    settings.forget()
    return json.loads(CliRunner().invoke(group, ["doctor", "--live", "--once", "--json", *arguments]).stdout)


def test_live_figures_are_those_of_the_program(writing: subprocess.Popen[str]) -> None:
    """Count, throughput, error rate, latency, success rate and memory of what is written at the moment."""
    found = live()
    assert (found["spans"], found["errors"], found["error_rate"]) == (100, 10, 0.1)
    assert found["per_s"] == pytest.approx(100 / 60)
    assert 0 < found["p50_s"] <= found["p99_s"] < 1
    assert (found["programs"], found["produced"], found["lost"], found["success_rate"]) == (1, 100, 0, 1.0)
    assert found["memory_bytes"] > 10 * 2**20
    assert found["store_bytes"] > 0
    settings.forget()
    text = CliRunner().invoke(group, ["doctor", "--live"]).output
    assert "100 in the last 60 s, 1.7/s" in text
    assert "10, rate 10.00%" in text
    assert text.count("store ") == 1


def test_live_over_a_server(writing: subprocess.Popen[str], isolated: Path) -> None:
    """The same figures of spans come from a server; what only the programs' machine knows is not invented."""
    store = SqliteLightningStore(isolated / "agentlightning.db")
    with LightningStoreServer(store, "127.0.0.1", 0) as running:
        found = live("--store", running.endpoint)
    store.close()
    assert (found["spans"], found["errors"], found["success_rate"]) == (100, 10, None)


def test_live_refreshes_until_it_is_interrupted(writing: subprocess.Popen[str]) -> None:
    """On a terminal the figures come again and again until Ctrl+C."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    with subprocess.Popen([*AGL, "doctor", "--live"], stdout=follower, env={**os.environ, "NO_COLOR": "1"}) as process:
        os.close(follower)
        seen = b""
        until = time.monotonic() + 15
        while seen.count(b"store ") < 2 and time.monotonic() < until:
            seen += os.read(leader, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    os.close(leader)
    assert seen.count(b"store ") >= 2


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 99)])
def test_quantiles(share: float, expected: int) -> None:
    """The nearest rank of what is ordered; nothing of nothing."""
    assert quantile(range(100), share) == expected
    assert quantile([], share) is None


def follow(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return exit code and stages by name."""
    settings.forget()
    answer = CliRunner().invoke(group, ["doctor", "--json", "--follow", *arguments], standalone_mode=False)
    assert answer.exception is None, answer.exception
    return answer.return_value, {each["stage"]: each for each in json.loads(answer.stdout)["stages"]}


def only_span(isolated: Path) -> str:
    """Return the id of the one span of the default store."""
    connection = sqlite3.connect(isolated / "agentlightning.db")
    ((span_id,),) = connection.execute("SELECT span_id FROM spans").fetchall()
    connection.close()
    return span_id


EMIT = "from agentlightning import emit_message\nemit_message('password=hunter2secret')\n"


def test_all_stages_have_their_times_at_debug(programs: Programs, isolated: Path) -> None:
    """With the log at DEBUG each stage is noted, in its order, with what happened to the content."""
    before = time.time_ns()
    programs.run(EMIT, AGL_LOG_LEVEL="DEBUG")
    code, stages = follow(only_span(isolated)[:6])
    assert code == 0
    assert list(stages) == ["produced", "queued", "taken", "prepared", "delivered", "stored"]
    times = [stages[name]["time_ns"] for name in ("produced", "taken", "prepared", "delivered")]
    assert before <= times[0]
    assert times == sorted(times)
    assert times[-1] <= time.time_ns()
    assert "number 1 of its process" in stages["queued"]["detail"]
    assert stages["prepared"]["detail"] == "redacted: named:1"
    assert "place 1; agl show ro-" in stages["stored"]["detail"]


def test_without_debug_unknown_times_stay_unknown(programs: Programs, isolated: Path) -> None:
    """At the default level nothing is noted, so no time is made up; how to have them noted is said."""
    programs.run(EMIT)
    span_id = only_span(isolated)
    _, stages = follow(span_id)
    assert list(stages) == ["produced", "queued", "prepared", "stored"]
    assert [stages[name]["time_ns"] for name in ("queued", "prepared", "stored")] == [None] * 3
    assert "AGL_LOG_LEVEL=DEBUG" in stages["queued"]["detail"]
    text = CliRunner().invoke(group, ["doctor", "--follow", span_id]).output
    assert "at an unknown time" in text
    connection = sqlite3.connect(isolated / "agentlightning.db")
    assert connection.execute("SELECT instr(attributes, 'agentlightning.stages') FROM spans").fetchone() == (0,)
    connection.close()


def test_a_spilled_span_is_found_on_the_disk(
    programs: Programs, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A span that its store could not take is in a segment, and later in the store, with both times."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AGL_STORE", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AGL_HTTP_RETRIES", "0")
    code = "from agentlightning import emit_message\nemit_message('x')\n"
    programs.run(code, AGL_LOG_LEVEL="DEBUG", AGL_FLUSH_TIMEOUT_S="0.3")
    segment = next(path for folder in spill_folders(os.environ["AGL_STORE"]) for path in folder.segments())
    reader = open_segment(segment)
    assert reader is not None
    (frame,) = [frame for frame in reader if frame.kind == ENDED]
    reader.close()
    span_id = msgspec.msgpack.decode(frame.payload)["span_id"]
    status, stages = follow(span_id)
    assert status == 0
    assert stages["spilled"]["time_ns"] > stages["prepared"]["time_ns"]
    assert ".spill/" in stages["spilled"]["detail"]
    assert "stored" not in stages
    command = [*AGL, "store", "serve", "--port", str(port), "--store", str(isolated / "agentlightning.db")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        try:
            subprocess.run([*AGL, "-v", "run", sys.executable, "-c", "pass"], check=True, timeout=60)
            _, stages = follow(span_id)
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert {"spilled", "delivered", "stored"} <= set(stages)


def test_an_open_span_is_open(programs: Programs, isolated: Path) -> None:
    """A span whose process was killed before it ended is shown as open, and that nothing will end it."""
    programs.run(
        "import os, signal\n"
        "from agentlightning.pipeline.process import flush\n"
        "from agentlightning.tracer.provider import get_tracer\n"
        "span = get_tracer().start_span('x')\n"
        "flush(10)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
        killed=True,
    )
    _, stages = follow(only_span(isolated))
    assert list(stages) == ["open"]
    assert "is gone: nothing will end it" in stages["open"]["detail"]


def test_a_lost_span_is_nowhere(programs: Programs) -> None:
    """An id that is nowhere ends with 1 and says what was lost, by reason."""
    programs.run(EMIT, AGL_SAMPLE_RULES="*=drop")
    code, stages = follow("abcdef0123456789")
    assert code == 1
    assert stages["lost"]["detail"].endswith("lost were 1 filtered")


def test_a_store_that_is_not_there_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span that is not found in a store that does not answer, or is not there, is not "nowhere": exit code 2."""
    monkeypatch.setenv("AGL_HTTP_RETRIES", "0")
    code, stages = follow("abcdef01", "--store", str(tmp_path / "none.db"))
    assert (code, f"there is no store at {tmp_path}/none.db" in stages["unknown"]["detail"]) == (2, True)
    code, stages = follow("abcdef01", "--store", "http://127.0.0.1:1")
    assert (code, "the store was not asked: cannot reach" in stages["unknown"]["detail"]) == (2, True)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_way_of_a_span_fits(
    programs: Programs, isolated: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Each line fits, words are whole, and details stand below each other."""
    programs.run(EMIT, AGL_LOG_LEVEL="DEBUG")
    monkeypatch.setenv("COLUMNS", str(columns))
    settings.forget()
    lines = CliRunner().invoke(group, ["doctor", "--follow", only_span(isolated)]).output.splitlines()
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    assert {"produced", "process", "committed,", "redacted:", "thread"} <= set(words)
    details = [line for line in lines[1:] if line.startswith("  ")]
    assert {len(line) - len(line.lstrip()) for line in details} <= {2 if columns < 80 else 36}


@pytest.mark.parametrize(("text", "message"), [("abc", "is no beginning of a span id"), ("nothex", "is no beginning")])
def test_what_is_no_id_is_refused(text: str, message: str) -> None:
    """Too few digits, or none, are one sentence and exit code 2."""
    done = subprocess.run([*AGL, "doctor", "--follow", text], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
