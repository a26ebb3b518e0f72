"""The local AgentOps server as a process of its own: start, wait until it is ready, watch, stop.

The address is bound here and handed to the child, so that no other process can take the port in between, and clients
wait instead of being refused while a crashed child is replaced. The server itself is ``agentlightning.server.agentops``
and is loaded in the child only.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib
import logging
import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from dataclasses import dataclass
from multiprocessing import connection, spawn
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, NamedTuple

from agentlightning import settings
from agentlightning._internal.failing import Telling
from agentlightning._internal.fork import rest_at_fork
from agentlightning.errors import ServerStartError

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentlightning.types.record import JsonObject

log = logging.getLogger("agentlightning.agentops")

DEFAULT_PORT = 8002
"""Port of ``agl agentops`` when none is asked for."""

PROCESS_NAME = "agl-agentops"
"""Title of the server's process."""

_READY_S = 20.0
"""Longest time from the start of the child to its first answer; it needs less than 2 s."""
_TERMINATE_S = 6.0
"""Longest time for the requests under way after SIGTERM; then the child is killed."""
_KILL_S = 5.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 5.0
_HEALTHY_S = 60.0
"""A child that lived so long begins with the first backoff again."""


@dataclass(frozen=True)
class AgentOpsServerOptions:
    """How a local AgentOps server is reached and what it serves."""

    host: str = "127.0.0.1"
    store: str | None = None
    """URL or path of the store; None: the default one."""
    project: str | None = None
    """Project of spans whose sender names none; None: ``AGL_PROJECT``."""
    tokens: str | None = None
    """File of ``agl store token``: who may send and read; a host that others can reach needs one."""
    allowed_hosts: tuple[str, ...] = ()
    tls_cert: str | None = None
    """PEM file with the certificate and those of its issuers; with it the server speaks HTTPS only."""
    tls_key: str | None = None
    mode: str | None = None
    """``LOCAL``, ``SERVICE`` or ``BOTH``; None: ``AGL_AGENTOPS_MODE``."""
    log_file: str | None = None
    """File of the audit lines and warnings; None: ``agentops.log`` in the user's state directory."""
    tell_problems: bool = False
    """Whether the server writes what is wrong with uploads to stderr too."""
    require_auth: bool = False
    """Refuse what comes without a token of this server, on this machine too. SDKs from 0.4.19 on send their first
    spans before they sign in, and lose them then."""


class ServerProcess(SpawnProcess, multiprocessing.Process):  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride] - only the first one's count
    """A ``multiprocessing.Process`` that is spawned, whatever the program's start method is."""


class ServerJob(NamedTuple):
    """What the child needs; pickled."""

    options: AgentOpsServerOptions
    parent_pid: int
    configured: dict[str, object]
    """Settings that the program made with ``configure``; the environment is inherited anyway."""


class AgentOpsServerManager:
    """One local AgentOps server in a process of its own. Thread-safe; used in the process that made it.

    A copy in another process, by a fork or by pickling, sees whether the server answers, and leaves it running.
    """

    def __init__(
        self,
        daemon: bool = True,  # noqa: FBT001, FBT002 - signature of the public API
        port: int | None = None,
        options: AgentOpsServerOptions | None = None,
    ) -> None:
        """Prepare a server; ``start`` runs it.

        Args:
            daemon: Whether it ends with the program. False: the program waits at its end until somebody calls
                ``stop``. It never outlives the program in either case.
            port: Port, 0 or None for a free one.
            options: How it is reached and what it serves.
        """
        self.daemon = daemon
        self.server_port: int | None = port or None
        self.server_process: ServerProcess | None = None
        self.options = options or AgentOpsServerOptions()
        self._init_state()
        log.debug("AgentOps server prepared, port %s, daemon %s", port, daemon)

    def _init_state(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._started_at = 0.0
        self._crashes = 0

    @property
    def url(self) -> str:
        """Base URL, such as ``http://127.0.0.1:8002``; the port is known once the server was started."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{'https' if self.options.tls_cert else 'http'}://{host}:{self.server_port or 0}"

    def get_port(self) -> int | None:
        """Return the port, or None when a free one is to be taken and the server was not started yet."""
        return self.server_port

    def is_alive(self) -> bool:
        """Tell whether the server runs."""
        if os.getpid() != self._owner:
            return self._answers()
        process = self.server_process
        return process is not None and process.is_alive()

    def start(self) -> None:
        """Start the server and return when it answers; a second call while it runs is logged and does nothing.

        Raises:
            ServerStartError: The port is taken or forbidden, or the server fails; the message says why.
        """
        with self._lock:
            if self.is_alive():
                log.info("the AgentOps server runs already at %s", self.url)
                return
            if os.getpid() != self._owner:  # a copy: from now on this process has a server of its own
                self._init_state()
                self.server_process = None
            if multiprocessing.current_process().daemon:
                msg = "a daemonic process cannot start the AgentOps server; start it where the workers are started"
                raise ServerStartError(msg)
            if self._listener is None:
                self.server_port = self._find_available_port()
            self._stopping = threading.Event()  # not cleared: who watches the last server may not have seen its end yet
            with Telling(lambda _: self._release()):
                self._launch()
            self._crashes = 0
            rest_at_fork(self)
            atexit.register(self._at_exit)
            threading.Thread(target=self._watch, args=(self._stopping,), name="agl-agentops-watch", daemon=True).start()

    def stop(self) -> None:
        """End the server: terminate, wait, kill. A second call does nothing, and a copy's call neither."""
        if os.getpid() != self._owner:
            log.debug("process %d leaves the AgentOps server to process %d", os.getpid(), self._owner)
            return
        self._stopping.set()
        with self._lock:
            process, self.server_process = self.server_process, None
            atexit.unregister(self._at_exit)
            if process is not None:
                _end(process)
            self._release()

    def _find_available_port(self) -> int:
        """Reserve the port that was asked for, else a free one, and return it; nobody else can take it afterwards.

        Raises:
            ServerStartError: It cannot be had.
        """
        self._listener = bind(self.options.host, self.server_port or 0)
        port: int = self._listener.getsockname()[1]
        return port

    def _launch(self) -> None:
        """Start a child and wait until it is ready; the lock is held."""
        receiver, sender = multiprocessing.Pipe(duplex=False)
        job = ServerJob(self.options, os.getpid(), _configured())
        # Pickled with the process: the child gets the listening socket itself.
        process = ServerProcess(
            target=run_server_process, args=(job, self._listener, sender), name=PROCESS_NAME, daemon=self.daemon
        )
        with receiver:
            with _without_main_module():
                process.start()
            sender.close()
            problem = _wait_until_ready(process, receiver)
        if problem is not None:
            _end(process)
            raise ServerStartError(problem)
        self.server_process, self._started_at = process, time.monotonic()
        log.info("AgentOps server at %s, process %s", self.url, process.pid)

    def _watch(self, stopping: threading.Event) -> None:
        """Start a child that died on its own again, later each time; on a thread."""
        while not stopping.is_set():
            process = self.server_process
            if process is None:
                return
            process.join()
            if stopping.is_set():
                return
            self._crashes = 0 if time.monotonic() - self._started_at > _HEALTHY_S else self._crashes
            delay = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**self._crashes) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            self._crashes = min(self._crashes + 1, 16)
            log.warning("the AgentOps server died (exit code %s); again in %.1f s", process.exitcode, delay)
            if stopping.wait(delay):
                return
            with self._lock:
                if stopping.is_set() or self.is_alive():
                    continue
                try:
                    self._launch()
                except (ServerStartError, OSError) as error:
                    log.warning("the AgentOps server does not start again: %s", error)

    def _at_exit(self) -> None:
        if self.daemon:
            self.stop()

    def _release(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):  # copies of the socket in forked children stop listening too
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.options.host, self.server_port or 0), timeout=1.0):
                return True
        except OSError:
            return False

    def before_fork(self) -> None:
        """Do nothing; see ``_internal.fork``."""

    def after_fork_in_parent(self) -> None:
        """Do nothing; see ``_internal.fork``."""

    def after_fork_in_child(self) -> None:
        """Give up the listening socket: a child that keeps it would keep the port after the server's end."""
        self._lock = threading.RLock()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        atexit.unregister(self._at_exit)

    def __getstate__(self) -> JsonObject:
        """Return what a copy in another process needs."""
        return {"daemon": self.daemon, "port": self.server_port, "options": self.options, "owner": self._owner}

    def __setstate__(self, state: JsonObject) -> None:
        """Make a copy that leaves the server alone."""
        self.daemon, self.server_port, self.options = state["daemon"], state["port"], state["options"]
        self.server_process = None
        self._init_state()
        self._owner = state["owner"]


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on *host* and *port* (0: a free one).

    Raises:
        ServerStartError: The address cannot be had; the message says why and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off: else every answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows this would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError, TypeError) as error:
        listener.close()
        raise ServerStartError(_bind_problem(host, port, error)) from error
    return listener


def _bind_problem(host: str, port: int, error: OSError | OverflowError | TypeError) -> str:
    if not isinstance(error, OSError):
        return f"{port!r} is no port; choose a number from 1 to 65535, or 0 for a free one"
    number = error.errno
    if number == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program; choose another --port, or --port 0 for a free one"
    if number in {errno.EACCES, errno.EPERM}:
        return f"port {port} of {host} is forbidden to this user; choose a --port from 1024 on"
    if number == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine; choose another --host, such as 127.0.0.1"
    return f"cannot listen on {host}:{port}: {error}; choose another --port"


def run_server_process(job: ServerJob, listener: socket.socket, ready: connection.Connection) -> None:
    """Serve in the child until it is told to end; *ready* gets None when it answers, or the problem as a text."""
    # By name, because this layer is below the server's; and not to trace the server when the program is traced.
    os.environ["AGL_ENABLED"] = "0"
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C goes to the whole group; the parent decides
    importlib.import_module("agentlightning.server.agentops.child").run(job, listener, ready)


def _wait_until_ready(process: ServerProcess, receiver: connection.Connection) -> str | None:
    """Return None when the child answers, else what is wrong."""
    connection.wait([receiver, process.sentinel], timeout=_READY_S)
    try:
        if receiver.poll():
            problem: str | None = receiver.recv()
            return problem
    except EOFError:
        process.join(_KILL_S)
    if process.is_alive():
        return f"the AgentOps server did not answer within {_READY_S:g} s; its log says more"
    return f"the AgentOps server ended while it started (exit code {process.exitcode}); run: agl doctor"


def _end(process: ServerProcess) -> None:
    if process.is_alive():
        process.terminate()
        process.join(_TERMINATE_S)
    if process.is_alive():
        log.warning("the AgentOps server does not end, so it is killed")
        process.kill()
    process.join(_KILL_S)


def _configured() -> dict[str, object]:
    found = ((setting.name, settings.lookup(setting)) for setting in settings.all_settings())
    return {name: value for name, (value, source) in found if source == "configure"}


_preparing = threading.Lock()


@contextlib.contextmanager
def _without_main_module() -> Generator[None]:
    """Keep a child that starts here from importing the program's main module again.

    It needs nothing of it, the import may take seconds, and a script without ``if __name__ == "__main__"`` would run
    twice. ``multiprocessing`` has no switch for that, so what it sends to a child of our name is cut.
    """
    with _preparing:
        original = spawn.get_preparation_data

        def prepare(name: str) -> JsonObject:
            """Return what a child is told, for ours without the program's main module."""
            data: JsonObject = original(name)
            if name == PROCESS_NAME:
                data.pop("init_main_from_name", None)
                data.pop("init_main_from_path", None)
            return data

        spawn.get_preparation_data = prepare
        try:
            yield
        finally:
            spawn.get_preparation_data = original
