"""The process of the server: started, watched, stopped, and never left behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from agentlightning import configure
from agentlightning.errors import ServerStartError
from agentlightning.instrumentation.agentops_server import AgentOpsServerManager, AgentOpsServerOptions, bind
from agentlightning.testing.agentops import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager() -> Iterator[AgentOpsServerManager]:
    """Return a manager whose server, if one was started, is stopped after the test."""
    made = AgentOpsServerManager(daemon=True, port=None)
    yield made
    made.stop()


def get(manager: AgentOpsServerManager, path: str = "/health") -> httpx.Response:
    """Ask the server of *manager*."""
    return httpx.get(manager.url + path, timeout=10, trust_env=False)


def test_the_life_of_a_server(manager: AgentOpsServerManager, caplog: pytest.LogCaptureFixture) -> None:
    """It starts on a free port, answers when start returns, is titled, starts once, is replaced when it dies, stops."""
    caplog.set_level(logging.INFO, "agentlightning.agentops")
    assert manager.get_port() is None
    assert not manager.is_alive()
    began = time.monotonic()
    manager.start()
    took = time.monotonic() - began
    process = manager.server_process
    assert process is not None
    assert isinstance(process, multiprocessing.Process)
    assert process.pid is not None
    usage = psutil.Process(process.pid)
    memory, processor = usage.memory_info().rss / 1e6, sum(usage.cpu_times()[:2])
    print(f"ready after {took:.2f} s, {processor:.2f} s of processor time, {memory:.0f} MB")
    assert memory < 80
    assert processor < 2  # what waits for other tests is not counted
    assert get(manager).json()["status"] == "ok"
    assert "agentops" in psutil.Process(process.pid).name()
    assert "agentops" in psutil.Process(process.pid).cmdline()[0]

    manager.start()
    assert manager.server_process is process
    assert "runs already" in caplog.text

    port = manager.get_port()
    psutil.Process(process.pid).kill()
    assert get(manager).status_code == 200  # the port stays open, so a client waits for the next child
    assert wait_until(manager.is_alive)
    assert manager.server_process is not process
    assert manager.get_port() == port

    manager.stop()
    assert not manager.is_alive()
    assert not psutil.pid_exists(process.pid)
    with pytest.raises(httpx.ConnectError):
        get(manager)
    manager.stop()


def test_https(certificate: tuple[str, str]) -> None:
    """With a certificate the server speaks HTTPS, and clients that know its issuer trust it."""
    made = AgentOpsServerManager(True, None, AgentOpsServerOptions(tls_cert=certificate[0], tls_key=certificate[1]))
    made.start()
    try:
        assert made.url.startswith("https://")
        known = ssl.create_default_context(cafile=certificate[0])
        assert httpx.get(f"{made.url}/health", verify=known, trust_env=False).status_code == 200
    finally:
        made.stop()


def test_several_at_once(manager: AgentOpsServerManager) -> None:
    """Two managers run two servers on two ports; one that is stopped can be started again."""
    other = AgentOpsServerManager(daemon=True, port=None)
    try:
        manager.start()
        other.start()
        assert manager.get_port() != other.get_port()
        other.stop()
        other.start()
        assert get(manager).status_code == get(other).status_code == 200
    finally:
        other.stop()


def test_one_that_is_started_again_is_watched_once(
    manager: AgentOpsServerManager, caplog: pytest.LogCaptureFixture
) -> None:
    """After stop and start no thread takes the end of the first server for a crash of the second one."""
    manager.start()
    first = next(thread for thread in threading.enumerate() if thread.name == "agl-agentops-watch")
    manager.stop()
    manager.start()
    first.join(5)
    assert not first.is_alive()
    assert "died" not in caplog.text
    assert get(manager).status_code == 200


@pytest.mark.parametrize("port", [-1, 65536, "8002", "abc", 80.5])
def test_a_wrong_port_is_said(port: Any) -> None:
    """What is no port is an error of its own, like one that is taken, and nothing is started."""
    made = AgentOpsServerManager(daemon=True, port=port)
    assert made.get_port() == port
    with pytest.raises(ServerStartError, match=f"{port!r} is no port; choose a number from 1 to 65535"):
        made.start()
    assert not made.is_alive()
    assert made.server_process is None


def test_a_taken_or_forbidden_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that another program has, one that needs more rights, and a foreign address are an error of their own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        made = AgentOpsServerManager(daemon=True, port=port)
        with pytest.raises(ServerStartError, match=f"port {port} of .* is taken by another program"):
            made.start()
        assert not made.is_alive()

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(ServerStartError, match="no address of this machine"):
        bind("203.0.113.1", 0)
    monkeypatch.setattr(socket.socket, "bind", forbidden)
    with pytest.raises(ServerStartError, match=r"port 80 of 127\.0\.0\.1 is forbidden"):
        bind("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (AgentOpsServerOptions(tls_cert="/none", tls_key="/none"), "cannot use the certificate"),
        (AgentOpsServerOptions(store="/proc/none/x.db"), "/proc/none"),
        (AgentOpsServerOptions(mode="BOTH"), "AGL_AGENTOPS_API_KEY"),
    ],
)
def test_a_server_that_cannot_start_says_why(options: AgentOpsServerOptions, message: str) -> None:
    """What is wrong in the child is the error of start, and nothing is left running."""
    made = AgentOpsServerManager(daemon=True, port=None, options=options)
    with pytest.raises(ServerStartError, match=message):
        made.start()
    assert not made.is_alive()
    assert not [child for child in psutil.Process().children() if child.name().startswith("agl-agentops")]


def test_configured_settings_reach_the_server(isolated: Path, manager: AgentOpsServerManager) -> None:
    """What the program set with configure() holds in the server's process too."""
    configure(agentops_mode="SERVICE", agentops_api_key="k", agentops_endpoint="http://127.0.0.1:9")
    configure(agentops_exporter_endpoint="http://127.0.0.1:9/v1/traces")
    manager.start()
    assert get(manager).json()["mode"] == "SERVICE"
    assert (isolated / "agentlightning" / "agentops" / "buffer.db").exists()


def test_copies_leave_the_server_alone(manager: AgentOpsServerManager) -> None:
    """A pickled copy and a forked child see that the server runs, and neither stops nor doubles it."""
    manager.start()
    copy: AgentOpsServerManager = pickle.loads(pickle.dumps(manager))
    assert copy.get_port() == manager.get_port()
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            alive = manager.is_alive()
            manager.start()
            manager.stop()
            os._exit(0 if alive and manager.server_process is not None else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert get(manager).status_code == 200
    manager.stop()
    with pytest.raises(httpx.ConnectError):
        get(manager)


PROGRAM = """
# Without the usual guard: the server must not import this again.
import os, signal, sys, time
from agentlightning.instrumentation.agentops_server import AgentOpsServerManager
print("main", flush=True)
manager = AgentOpsServerManager(daemon={daemon}, port=None)
manager.start()
print(manager.server_process.pid, manager.get_port(), flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("daemon", "then"),
    [
        pytest.param(True, "time.sleep(60)", marks=pytest.mark.slow),  # killed by the test
        pytest.param(False, "time.sleep(60)", marks=pytest.mark.slow),
        (True, "pass"),  # ends by itself
        (True, "os.fork() or time.sleep(60); time.sleep(60)"),  # a child has the other end of the pipe too
    ],
)
def test_no_server_outlives_its_program(tmp_path: Path, *, daemon: bool, then: str) -> None:
    """When the program ends or is killed with SIGKILL its server ends, also while a forked child lives on."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(daemon=daemon, then=then))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "main\n"
            pid, port = map(int, program.stdout.readline().split())
            if then == "pass":
                assert program.wait(60) == 0
            else:
                assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
                program.kill()
            wait_until(lambda: not psutil.pid_exists(pid))
        finally:
            for process in psutil.process_iter():
                if _group_of(process.pid) == program.pid:
                    process.kill()


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


@pytest.mark.slow
def test_a_server_that_hangs_is_killed(manager: AgentOpsServerManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that does not end on SIGTERM is killed after a while."""
    monkeypatch.setattr("agentlightning.instrumentation.agentops_server._TERMINATE_S", 0.3)
    manager.start()
    process = manager.server_process
    assert process is not None
    assert process.pid is not None
    psutil.Process(process.pid).suspend()  # SIGTERM waits until it goes on, SIGKILL does not
    manager.stop()
    assert not psutil.pid_exists(process.pid)


@pytest.mark.slow
def test_start_from_many_threads(manager: AgentOpsServerManager) -> None:
    """Threads that start the same manager at once get one server."""
    threads = [threading.Thread(target=manager.start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager.is_alive()
    named = [child for child in psutil.Process().children() if "agentops" in child.name()]
    assert len(named) == 1
