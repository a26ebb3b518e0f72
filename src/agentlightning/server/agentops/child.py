"""The process of the AgentOps server, as ``AgentOpsServerManager`` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from agentlightning import settings
from agentlightning._internal.private import private_folder
from agentlightning.errors import AgentLightningError
from agentlightning.instrumentation.agentops_server import PROCESS_NAME
from agentlightning.server.access import TokenFile
from agentlightning.server.agentops import dashboard, page, public, routes
from agentlightning.server.agentops.access import AgentOpsRules, Keys
from agentlightning.server.agentops.log import log_to_file, state_folder
from agentlightning.server.agentops.signer import Signer, read_key
from agentlightning.server.agentops.state import AgentOpsState, WithState
from agentlightning.server.agentops.title import set_title
from agentlightning.server.app import create_app, thread_safe
from agentlightning.server.launcher import ServerOptions, make_config
from agentlightning.store.url import open_store

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator
    from multiprocessing.connection import Connection

    from agentlightning.instrumentation.agentops_server import AgentOpsServerOptions, ServerJob
    from agentlightning.server.agentops.service import Upload
    from agentlightning.server.gate import App
    from agentlightning.store.base import LightningStore

log = logging.getLogger("agentlightning.agentops")

_PARENT_LOOK_S = 1.0
_LAST_WAIT_S = 8.0
"""Longest time from the end of the parent to the end of this process."""


def make_app(store: LightningStore, options: AgentOpsServerOptions, upload: Upload | None = None) -> App:
    """Return the application: that of the store server with the routes of AgentOps, which tell about *upload*.

    Raises:
        SettingError: Others can reach the host, and there is no file of tokens.
    """
    keys = Keys(TokenFile(Path(options.tokens)) if options.tokens else None, store.project)
    signer = Signer(read_key(state_folder() / "signing.key"))
    rules = AgentOpsRules(options, signer, keys)
    routers = [module.router for module in (routes, public, dashboard, page)]
    app = create_app(store, rules, None, routers)
    if upload is not None:
        app.further_counts = upload.figures
    return WithState(
        app,
        AgentOpsState(rules=rules, signer=signer, keys=keys, project=store.project, mode=_mode(options), upload=upload),
    )


def _mode(options: AgentOpsServerOptions) -> str:
    return settings.AGENTOPS_MODE.parse(options.mode or settings.get(settings.AGENTOPS_MODE), "mode")


def run(job: ServerJob, listener: socket.socket, ready: Connection) -> None:
    """Serve until SIGTERM or the end of the parent; *ready* gets None when requests are answered, else the problem."""
    set_title(f"{PROCESS_NAME}: {job.options.host}:{listener.getsockname()[1]}")
    settings.forget()
    settings.configure(**job.configured)
    settings.apply_log_level()
    if job.options.tell_problems:
        _tell_on_stderr()
    handler = log_to_file(
        Path(job.options.log_file) if job.options.log_file else None, f" :{listener.getsockname()[1]}"
    )
    try:
        _serve(job, listener, ready)
    except (AgentLightningError, OSError, ssl.SSLError) as error:
        log.error("the AgentOps server ends: %s", error)  # noqa: TRY400 - one line says it
        with contextlib.suppress(OSError, ValueError):
            ready.send(str(error))
    finally:
        if handler is not None:
            handler.close()


def _serve(job: ServerJob, listener: socket.socket, ready: Connection) -> None:
    options = job.options
    port: int = listener.getsockname()[1]
    how = ServerOptions(host=options.host, port=port, tls_cert=options.tls_cert, tls_key=options.tls_key)
    with contextlib.ExitStack() as open_things:
        store = open_store(_store_url(options), options.project)
        open_things.callback(store.close)
        upload = _upload(store, options)
        config = make_config(make_app(store, options, upload), how)
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            msg = f"cannot use the certificate {options.tls_cert}: {error}; give --tls-cert and --tls-key, PEM files"
            raise AgentLightningError(msg) from error
        if upload is not None:
            open_things.enter_context(upload)

        def answer() -> None:
            """Tell the parent that the server listens; a parent that is gone is passed by."""
            with contextlib.suppress(OSError):
                ready.send(None)
            ready.close()

        server = _Server(config, answer)
        signal.signal(signal.SIGTERM, server.end)
        threading.Thread(target=_watch_parent, args=(job.parent_pid, server), name="parent", daemon=True).start()
        asyncio.run(server.serve([listener]))


def _store_url(options: AgentOpsServerOptions) -> str | None:
    """Return the store to serve; in the mode SERVICE a buffer, and the user's own is not touched."""
    if _mode(options) != "SERVICE":
        return options.store
    folder = state_folder()
    private_folder(folder)
    return str(folder / "buffer.db")


def _upload(store: LightningStore, options: AgentOpsServerOptions) -> Upload | None:
    mode = _mode(options)
    if mode == "LOCAL":
        return None
    from agentlightning.server.agentops import service  # noqa: PLC0415 - never in the mode LOCAL: it can reach outward

    found = service.Service.from_settings()
    return service.Upload(thread_safe(store), found, is_buffer=mode == "SERVICE")


def _tell_on_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("agl: %(message)s"))
    handler.setLevel(logging.WARNING)
    log.addHandler(handler)


class _Server(uvicorn.Server):
    """Tells when it answers, and leaves signals to this module."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Change no handler: SIGINT is ignored here, SIGTERM ends the server."""
        yield

    def end(self, *_: object) -> None:
        """End after the requests under way."""
        self.should_exit = True


def _watch_parent(parent_pid: int, server: _Server) -> None:
    """End the server when its parent is gone, however it went; on a thread."""
    parent = multiprocessing.parent_process()
    while not server.should_exit:
        # The pipe says it at once, unless a forked child of the parent holds its other end too.
        if parent is not None:
            parent.join(_PARENT_LOOK_S)
        if (parent is not None and not parent.is_alive()) or os.getppid() != parent_pid:
            log.warning("process %d that started the AgentOps server is gone: the server ends", parent_pid)
            server.end()
    threading.Event().wait(_LAST_WAIT_S)
    os._exit(1)
