"""Running the server: in this process beside other work, or as the whole of it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn

from agentlightning.errors import SettingError, StoreUnavailableError
from agentlightning.server.access import AccessRules, TokenFile
from agentlightning.server.app import create_app
from agentlightning.server.connection import PatientProtocol
from agentlightning.store.forward import ForwardingStore
from agentlightning.store.sql.manager import SqlLightningStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from typing_extensions import Self

    from agentlightning.server.gate import App, GateLimits
    from agentlightning.store.base import LightningStore
    from agentlightning.store.client import LightningStoreClient
    from agentlightning.types.record import WriteBatch, WriteResult

T = TypeVar("T")

QUERY_TIMEOUT_S = 5.0
"""Longest time of a query that a client may cause."""
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5


@dataclass(frozen=True)
class ServerOptions:
    """How a server is reached."""

    host: str = "127.0.0.1"
    port: int = 4747
    """0 takes a free one."""
    tokens: TokenFile | None = None
    allowed_hosts: tuple[str, ...] = ()
    tls_cert: str | None = None
    """PEM file with the certificate, and those of its issuers."""
    tls_key: str | None = None
    limits: GateLimits | None = None
    figures: Callable[[], Mapping[str, int]] | None = None
    """Further counters for ``/metrics``."""


def make_server(store: LightningStore, options: ServerOptions) -> uvicorn.Server:
    """Return a server of *store* that is not running yet.

    Raises:
        SettingError: The address can be reached from other machines, and there are no tokens.
    """
    rules = AccessRules(options.host, options.tokens, options.allowed_hosts)
    app = create_app(store, rules, options.limits)
    if options.figures is not None:
        app.further_counts = options.figures
    return uvicorn.Server(make_config(app, options))


def make_config(app: App, options: ServerOptions) -> uvicorn.Config:
    """Return how *app* is served: bounds, timeouts, TLS.

    Raises:
        SettingError: The certificate or its key cannot be used.
    """
    _check_certificate(options)
    return uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        limit_concurrency=1000,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )


def _settle_memory() -> None:
    """Give back what only the start needed, and let the garbage collector leave alone what stays for good."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def _check_certificate(options: ServerOptions) -> None:
    if options.tls_cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        msg = f"cannot use the certificate {options.tls_cert} with the key {options.tls_key}: {error}"
        raise SettingError(msg) from error


def base_url(options: ServerOptions, port: int) -> str:
    """Return the URL of a server that listens on *port*."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{'https' if options.tls_cert else 'http'}://{host}:{port}"


def bind(options: ServerOptions) -> socket.socket:
    """Return a listening socket at the address of *options*.

    Raises:
        StoreUnavailableError: The address cannot be had; the message says why.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off: else every answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
    except OSError as error:
        listener.close()
        msg = f"cannot listen on {options.host}:{options.port}: {error.strerror or error}; choose another --port"
        raise StoreUnavailableError(msg) from error
    listener.listen(1024)
    return listener


def wait_until_started(server: uvicorn.Server, name: str) -> None:
    """Return when *server*, which runs in another thread, takes requests.

    Raises:
        StoreUnavailableError: It did not start in time; *name* says what.
    """
    waited = threading.Event()
    for _ in range(int(_START_TIMEOUT_S / 0.01)):
        if server.started:
            return
        waited.wait(0.01)
    msg = f"{name} did not start within {_START_TIMEOUT_S} s"
    raise StoreUnavailableError(msg)


def run_server(store: LightningStore, options: ServerOptions, announce: Callable[[str], None]) -> None:
    """Serve *store* until SIGINT or SIGTERM; *announce* gets the URL when requests are taken.

    Raises:
        SettingError: The address can be reached from other machines, and there are no tokens.
        StoreUnavailableError: The address cannot be had.
    """
    server = make_server(store, options)
    listener = bind(options)
    if isinstance(store, SqlLightningStore):
        store.connector.query_timeout_s = QUERY_TIMEOUT_S
    _settle_memory()
    announce(base_url(options, listener.getsockname()[1]))
    with listener:
        server.run([listener])


class LightningStoreServer(ForwardingStore):
    """A store that other processes reach over HTTP while this one goes on using it directly.

    The server runs on a thread of its own. A copy in another process, by pickling or by a fork, is a client of it.
    """

    def __init__(self, store: LightningStore, host: str = "127.0.0.1", port: int = 4747) -> None:
        """Serve *store* at *host* and *port* (0: a free one) once it is started; loopback addresses only."""
        self.options = ServerOptions(host=host, port=port)
        """How it is reached; may be replaced until it is started."""
        self.store: LightningStore | None = store
        self.project = store.project
        self.url: str | None = None
        self._pid = os.getpid()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._client: LightningStoreClient | None = None

    @property
    def endpoint(self) -> str:
        """Base URL of the server, such as ``http://127.0.0.1:4747``; the port is known once it is started."""
        return self.url or base_url(self.options, self.options.port)

    async def start(self) -> None:
        """Start serving and return when requests are answered; a second call does nothing while it runs.

        Raises:
            StoreUnavailableError: The address cannot be had.
        """
        if self._server is None and self.store is not None:
            await asyncio.to_thread(self._start, self.store)

    def _start(self, store: LightningStore) -> None:
        server = make_server(store, self.options)
        listener = bind(self.options)
        self.url = base_url(self.options, listener.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(server, listener), name="agentlightning-server", daemon=True)
        thread.start()
        self._server, self._thread = server, thread
        wait_until_started(server, f"the server at {self.url}")

    async def run_forever(self) -> None:
        """Serve until ``stop`` is called from elsewhere or this call is cancelled."""
        await self.start()
        try:
            while self._thread is not None and self._thread.is_alive():
                await asyncio.to_thread(self._thread.join, 0.2)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End the server after the requests under way; a second call does nothing. The store stays open."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.should_exit = True
            await asyncio.to_thread(thread.join)

    def with_project(self, project: str) -> LightningStore:
        """Return a handle for another project; see ``LightningStore``."""
        return self._home().with_project(project)

    async def forward(self, call: Callable[[LightningStore], Awaitable[T]]) -> T:
        """Call the store itself in its own process, and the server in any other."""
        return await call(self._home())

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch; see ``LightningStore``."""
        return self._home().write_batch(batch)

    def _home(self) -> LightningStore:
        if self.store is not None and self._pid == os.getpid():
            return self.store
        if self._client is None:
            from agentlightning.store.client import LightningStoreClient  # noqa: PLC0415 - not in a server: 6 MB

            self._client = LightningStoreClient(self.endpoint, project=self.project)
        return self._client

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy in another process needs to be a client."""
        return {"options": self.options, "project": self.project, "url": self.endpoint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a client of the server that was pickled."""
        self.options, self.project, self.url = state["options"], state["project"], state["url"]
        self.store = self._server = self._thread = self._client = None
        self._pid = 0

    def after_fork(self) -> None:
        """Be a client in a forked child; see ``LightningStore``."""
        self._client = None

    def close(self) -> None:
        """Stop serving and close the store; see ``LightningStore``."""
        if self._server is not None and self._thread is not None and self._pid == os.getpid():
            self._server.should_exit = True
            self._thread.join()
        self._server = self._thread = None
        if self._client is not None:
            self._client.close()
        if self.store is not None and self._pid == os.getpid():
            self.store.close()

    def __enter__(self) -> Self:
        """Start serving; for tests and scripts without an event loop."""
        if self._server is None and self.store is not None:
            self._start(self.store)
        return self

    def __exit__(self, *error: object) -> None:
        """Stop serving and close the store."""
        self.close()


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # Signals belong to the program around; uvicorn takes them only in the main thread.
    try:
        asyncio.run(server.serve([listener]))
    finally:
        listener.close()
