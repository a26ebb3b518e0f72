"""Running the local AgentOps server for ``agl agentops``, and as ``python -m agentlightning.cli.agentops_server``.

A server that was started here has a file ``PORT.pid`` in the user's state directory. A file whose process is gone is
deleted by whoever finds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple, cast

import click
import psutil

from agentlightning._internal.ids import is_process_gone, process_key
from agentlightning._internal.private import private_folder
from agentlightning.errors import AgentLightningError, ServerStartError
from agentlightning.instrumentation.agentops_server import AgentOpsServerManager, AgentOpsServerOptions
from agentlightning.server.agentops.log import default_log_file, log_to_file, state_folder
from agentlightning.server.agentops.title import set_title
from agentlightning.store.url import canonical_url, default_store_url

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from agentlightning.types.record import JsonObject

_DETACH_S = 30.0
_STOP_S = 15.0
_OPTIONS_VARIABLE = "AGL_AGENTOPS_DAEMON_OPTIONS"


class Running(NamedTuple):
    """A server that somebody started with ``agl agentops``."""

    pid: int
    process: str
    """The process as ``process_key`` names it: a number alone may mean another one by now."""
    port: int
    url: str
    store: str
    started: float
    file: Path

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended."""
        return is_process_gone(self.process)


def main(arguments: list[str] | None = None) -> None:
    """Run ``agl agentops`` with *arguments*, default those of the process, and exit."""
    from agentlightning.cli.main import main as run  # noqa: PLC0415 - the whole command line

    run(["agentops", *(sys.argv[1:] if arguments is None else arguments)])


def options_of(given: JsonObject) -> AgentOpsServerOptions:
    """Return what the options of the command line mean."""
    return AgentOpsServerOptions(
        host=given["host"],
        store=canonical_url(given["store"]) if given["store"] else default_store_url(),
        project=given["project"],
        tokens=given["tokens"],
        allowed_hosts=tuple(given["allow_host"]),
        tls_cert=given["tls_cert"],
        tls_key=given["tls_key"],
        require_auth=given["require_auth"],
        tell_problems=not given["daemon"],
    )


def serve(port: int, options: AgentOpsServerOptions, ready_fd: int | None = None) -> int:
    """Run a server until Ctrl+C or SIGTERM, and return the exit code.

    Raises:
        ServerStartError: It cannot start; the message says why.
    """
    ended = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _setter(ended))
    manager = AgentOpsServerManager(daemon=True, port=port, options=options)
    try:
        manager.start()
    except AgentLightningError as error:
        problem = _with_hint(str(error), port)
        _tell(ready_fd, {"problem": problem})
        raise ServerStartError(problem) from None
    with _pid_file(manager) as running:
        _tell(ready_fd, {"url": manager.url, "pid": os.getpid()})
        if ready_fd is None:
            _announce(running)
        try:
            # In pieces, so that a signal is handled at once on every platform.
            while not ended.wait(1.0):
                pass
        finally:
            manager.stop()
    return 0


def _setter(ended: threading.Event) -> Callable[[int, object], None]:
    def handler(_number: int, _frame: object) -> None:
        """Note the signal, whichever it is; the loop that waits ends the server."""
        ended.set()

    return handler


def detach(port: int, options: AgentOpsServerOptions) -> int:
    """Start a server that goes on without this terminal, and return when it answers.

    Raises:
        ServerStartError: It cannot start; the message says why.
    """
    receiver, sender = os.pipe()
    environment = {**os.environ, _OPTIONS_VARIABLE: json.dumps(asdict(options))}
    arguments = [sys.executable, "-m", "agentlightning.cli.agentops_server", str(port), str(sender)]
    with os.fdopen(receiver, "rb") as answer:
        subprocess.Popen(  # noqa: S603 - our own module
            arguments,
            env=environment,
            cwd="/" if os.name == "posix" else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(sender,),
            start_new_session=True,
        )
        os.close(sender)
        timer = threading.Timer(_DETACH_S, answer.close)
        timer.daemon = True
        timer.start()
        text = answer.readline()
        timer.cancel()
    told = cast("JsonObject", json.loads(text)) if text else {}
    if "url" not in told:
        problem = told.get("problem") or f"the server did not start; its log is {default_log_file()}"
        raise ServerStartError(problem)
    running = next((item for item in running_servers() if item.pid == told["pid"]), None)
    if running is not None:
        _announce(running)
        click.echo(f"Log: {default_log_file()}   Stop: agl agentops --stop --port {running.port}", err=True)
    return 0


def show_status(port: int | None) -> int:
    """Print which servers run, and return 0, or 1 when there is none."""
    found = [item for item in running_servers() if port is None or item.port == port]
    for item in found:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(item.started))
        click.echo(f"{item.url}  process {item.pid}  since {since}  store {item.store}")
    if not found:
        click.echo("no AgentOps server runs" + ("" if port is None else f" at port {port}"))
    return 0 if found else 1


def stop(port: int | None) -> int:
    """End a server: the one at *port*, or the only one; terminate, wait, kill. Return 0, or 1 when there is none."""
    found = [item for item in running_servers() if port is None or item.port == port]
    if not found:
        click.echo("no AgentOps server runs" + ("" if port is None else f" at port {port}"))
        return 1
    if len(found) > 1:
        ports = ", ".join(str(item.port) for item in found)
        msg = f"several servers run: say which one with --port ({ports})"
        raise click.UsageError(msg)
    _end(found[0])
    click.echo(f"stopped {found[0].url}")
    return 0


def _end(item: Running) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(item.pid)
        below = process.children(recursive=True)
        process.terminate()
        gone, alive = psutil.wait_procs([process, *below], timeout=_STOP_S)
        _ = gone
        for left in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(alive, timeout=_STOP_S)
    item.file.unlink(missing_ok=True)


def running_servers(*, tidy: bool = True) -> list[Running]:
    """Return the servers that run, by port; with *tidy* the files of those that are gone are deleted."""
    found: list[Running] = []
    for file in sorted(state_folder().glob("*.pid")) if state_folder().is_dir() else ():
        item = _read(file)
        if item is not None and not item.is_gone:
            found.append(item)
        elif tidy:
            file.unlink(missing_ok=True)
    return found


def _read(file: Path) -> Running | None:
    try:
        pid, _, rest = file.read_text("utf-8").partition("\n")
        return Running(pid=int(pid), file=file, **json.loads(rest))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def _pid_file(manager: AgentOpsServerManager) -> Generator[Running]:
    """Write the file of a server and delete it at its end: the number on the first line, then an object."""
    port = manager.get_port() or 0
    file = state_folder() / f"{port}.pid"
    told: JsonObject = {
        "process": process_key(),
        "port": port,
        "url": manager.url,
        "store": manager.options.store,
        "started": time.time(),
    }
    private_folder(file.parent)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as writing:
        writing.write(f"{os.getpid()}\n{json.dumps(told)}\n")
    temporary.replace(file)
    try:
        yield Running(pid=os.getpid(), file=file, **told)
    finally:
        mine = _read(file)
        if mine is not None and mine.pid == os.getpid():
            file.unlink(missing_ok=True)


def _with_hint(problem: str, port: int) -> str:
    """Say when it is a server of ours that has the port."""
    other = next((item for item in running_servers() if item.port == port), None)
    if other is None or "taken" not in problem:
        return problem
    return f"{problem} (it is 'agl agentops', process {other.pid}; end it with: agl agentops --stop --port {port})"


def _announce(running: Running) -> None:
    """Print where the server is, and what makes the unmodified SDK use it."""
    click.echo(f"AgentOps server at {running.url}, store {running.store}", err=True)
    click.echo(
        f"export AGENTOPS_API_ENDPOINT={running.url}\n"
        f"export AGENTOPS_EXPORTER_ENDPOINT={running.url}/v1/traces\n"
        f"export AGENTOPS_APP_URL={running.url}\n"
        "export AGENTOPS_API_KEY=00000000-0000-0000-0000-000000000000"
    )
    sys.stdout.flush()


def _tell(ready_fd: int | None, what: dict[str, object]) -> None:
    if ready_fd is not None:
        with contextlib.suppress(OSError):
            os.write(ready_fd, json.dumps(what).encode() + b"\n")
            os.close(ready_fd)


def _daemon() -> int:
    """Be the daemon that ``detach`` starts."""
    told: JsonObject = json.loads(os.environ.pop(_OPTIONS_VARIABLE))
    told["allowed_hosts"] = tuple(told["allowed_hosts"])
    set_title("agl-agentops: manager")
    os.umask(0o077)
    log_to_file(None, "")
    try:
        return serve(int(sys.argv[1]), AgentOpsServerOptions(**told), int(sys.argv[2]))
    except AgentLightningError:
        return 2


if __name__ == "__main__":
    if _OPTIONS_VARIABLE in os.environ:
        sys.exit(_daemon())
    main()
