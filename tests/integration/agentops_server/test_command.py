"""``agl agentops`` as a user runs it, and the problems of docs/agentops.md, each made to happen."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from agentlightning import settings
from agentlightning.cli import agentops_check
from agentlightning.cli.agentops_server import running_servers
from agentlightning.testing.agentops import Server, audit_of, log_lines, otlp, session, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AGL = [sys.executable, "-m", "agentlightning.cli", "agentops"]


def agl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``agl agentops``."""
    return subprocess.run([*AGL, *arguments], capture_output=True, text=True, timeout=60, check=False)


def server_of(manager: psutil.Process) -> psutil.Process:
    """Return the process of the server below *manager*, which has another child that multiprocessing needs."""
    return next(child for child in manager.children() if "agentops" in child.name())


@pytest.fixture
def daemon(isolated: Path) -> Iterator[str]:
    """Start a daemon on a free port and return its address."""
    done = agl("--port", "0", "--daemon", "--store", str(isolated / "d.db"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("export AGENTOPS_API_ENDPOINT=http://127.0.0.1:")
    yield done.stdout.split()[1].partition("=")[2]
    agl("--stop")


def test_a_daemon(daemon: str, isolated: Path) -> None:
    """A daemon answers when the command returns, is found by --status, has private files, and ends with --stop."""
    port = daemon.rpartition(":")[2]
    body, headers = otlp(*session(1)), {"content-type": "application/x-protobuf"}
    assert httpx.post(f"{daemon}/v1/traces", content=body, headers=headers).status_code == 200
    folder = isolated / "agentlightning" / "agentops"
    assert {oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {"0o600"}
    pid = int((folder / f"{port}.pid").read_text().splitlines()[0])
    manager = psutil.Process(pid)
    server = server_of(manager)
    assert all("agentops" in process.name() for process in (manager, server))
    assert os.getsid(pid) != os.getsid(0)
    assert audit_of(log_lines(isolated))[-1][0] == "upload"

    shown = agl("--status")
    assert (shown.returncode, daemon in shown.stdout) == (0, True)
    again = agl("--port", port)
    assert again.returncode == 2
    assert "is taken" in again.stderr
    assert f"agl agentops --stop --port {port}" in again.stderr

    assert agl("--stop", "--port", port).returncode == 0
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(server.pid)
    assert not (folder / f"{port}.pid").exists()
    assert [agl("--status").returncode, agl("--stop").returncode] == [1, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_foreground_ends_cleanly(isolated: Path, number: signal.Signals) -> None:
    """Ctrl+C and SIGTERM to the whole group end the server within seconds, with exit code 0 and nothing left."""
    command = [*AGL, "--port", "0", "--store", str(isolated / "d.db")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as it:
        assert it.stdout is not None
        assert it.stderr is not None
        url = it.stdout.readline().strip().partition("=")[2]
        children = psutil.Process(it.pid).children()
        assert httpx.get(f"{url}/health").status_code == 200
        os.killpg(it.pid, number)
        assert it.wait(60) == 0
        assert "Traceback" not in it.stderr.read()
        wait_until(lambda: not any(psutil.pid_exists(child.pid) for child in children))
    assert running_servers() == []


def test_a_killed_manager_takes_its_server_along(daemon: str, isolated: Path) -> None:
    """After kill -9 of a daemon its server ends too, and the pid file that is left is cleaned by the next look."""
    file = next((isolated / "agentlightning" / "agentops").glob("*.pid"))
    pid = int(file.read_text().splitlines()[0])
    server = server_of(psutil.Process(pid))
    psutil.Process(pid).kill()
    wait_until(lambda: not psutil.pid_exists(server.pid) or server.status() == psutil.STATUS_ZOMBIE)
    assert running_servers() == []
    assert not file.exists()


def test_a_pid_that_another_process_has_by_now(isolated: Path) -> None:
    """A stale file is deleted although a process with its number lives: the start of the process is compared."""
    folder = isolated / "agentlightning" / "agentops"
    folder.mkdir(parents=True)
    told = {"process": "host/1/0", "port": 5, "url": "http://127.0.0.1:5", "store": "s", "started": 0.0}
    told["process"] = f"{socket.gethostname()}/{os.getpid()}/12345"
    (folder / "5.pid").write_text(f"{os.getpid()}\n{json.dumps(told)}\n")
    (folder / "6.pid").write_text("nonsense")
    assert running_servers() == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0", "--host", "0.0.0.0"], "can be reached from other machines"),
        (["--port", "0", "--host", "203.0.113.1"], "no address of this machine"),
        (["--tls-cert", __file__], "belong together"),
        (["--status", "--stop"], "exclude each other"),
        (["--port", "0", "--tokens", __file__, "--daemon"], "chmod 600"),
    ],
)
def test_what_cannot_start_says_why(arguments: list[str], message: str) -> None:
    """A server that cannot start is one line on stderr and exit code 2, in the background too."""
    done = agl(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert running_servers() == []


def rows() -> dict[str, tuple[bool, str]]:
    """Return what ``agl doctor`` says about AgentOps."""
    return {what: (good, found) for good, what, found in agentops_check.findings()}


def test_doctor_is_quiet_where_agentops_is_not_used() -> None:
    """Without SDK, server and variables there is one row."""
    assert set(rows()) == {"agentops"}


def test_doctor_events_lost(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """Nothing listens, spans go past the local server, no room, and the pair of releases that loses all: a row each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AGENTOPS_API_ENDPOINT", server.url)
    assert "spans go to the service" in rows()["agentops target"][1]
    monkeypatch.setenv("AGENTOPS_EXPORTER_ENDPOINT", f"http://127.0.0.1:{port}/v1/traces")
    good, found = rows()["agentops target"]
    assert not good
    assert f"agl agentops --port {port}" in found
    monkeypatch.setenv("AGENTOPS_EXPORTER_ENDPOINT", f"{server.url}/v1/traces")
    assert rows()["agentops target"][0]
    monkeypatch.setattr(agentops_check, "_ROOM_BYTES", 2**60)
    good, found = rows()["agentops room"]
    assert not good
    assert "503" in found
    releases = {"agentops": "0.4.21", "opentelemetry-exporter-otlp-proto-http": "1.45.2"}
    monkeypatch.setattr(agentops_check, "version", releases.__getitem__)
    assert "<1.45" in rows()["agentops SDK"][1]
    releases["opentelemetry-exporter-otlp-proto-http"] = "1.44.0"
    assert "<1.45" not in rows()["agentops SDK"][1]


def test_doctor_events_late(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs, and pauses that are too long, are rows."""
    assert rows()["agentops server"] == (True, rows()["agentops server"][1])
    process = server_of(psutil.Process(running_servers()[0].pid))
    monkeypatch.setattr(agentops_check, "_TIMEOUT_S", 0.2)
    process.suspend()
    try:
        good, found = rows()["agentops server"]
    finally:
        process.resume()
    assert not good
    assert f"{daemon} does not answer" in found
    settings.forget()
    monkeypatch.setenv("AGL_AGENTOPS_RETRY_CAP_S", "3000")
    assert not rows()["agentops pauses"][0]


def test_doctor_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the modes that upload, doctor signs in and repeats the line for what is wrong."""
    monkeypatch.setenv("AGL_AGENTOPS_MODE", "BOTH")
    assert "AGL_AGENTOPS_API_KEY" in rows()["agentops sign-in"][1]


def test_doctor_port_and_permission(monkeypatch: pytest.MonkeyPatch, isolated: Path) -> None:
    """A port that is taken or forbidden, and a state directory without the right to write, are rows."""
    monkeypatch.setenv("AGENTOPS_API_KEY", "x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(agentops_check, "DEFAULT_PORT", taken.getsockname()[1])
        assert "is taken" in rows()["agentops port"][1]
    assert "is free" in rows()["agentops port"][1]
    monkeypatch.setattr("os.access", _refused)
    good, found = rows()["agentops files"]
    assert not good
    assert "XDG_STATE_HOME" in found


def _refused(*_: object) -> bool:
    return False


def test_doctor_left_over_process(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose manager is gone and that did not end by itself is named with the command that ends it."""
    manager = psutil.Process(running_servers()[0].pid)
    server = server_of(manager)
    server.suspend()  # so that it cannot notice
    manager.kill()
    try:
        found = wait_until(lambda: rows().get("agentops process"))
        assert found == (False, f"process {server.pid} has no manager: kill {server.pid}")
    finally:
        server.kill()
