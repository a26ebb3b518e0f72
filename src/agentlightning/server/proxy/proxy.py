"""``LLMProxy``: the proxy as a part of a program."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import uvicorn

from agentlightning._internal.guard import guard
from agentlightning.server.access import AccessRules
from agentlightning.server.app import create_app
from agentlightning.server.launcher import ServerOptions, base_url, bind, make_config, wait_until_started
from agentlightning.server.proxy.backend import Pool, backends_of
from agentlightning.server.proxy.relay import Relay
from agentlightning.server.proxy.sink import SpanSink
from agentlightning.types.resources import LLM, ProxyLLM

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from agentlightning.server.access import TokenFile
    from agentlightning.store.base import LightningStore

_STOP_TIMEOUT_S = 5.0


class LLMProxy:
    """Serves the models of *backends* under one address and records each call in *store*.

    What comes to ``/rollout/ROLLOUT/attempt/ATTEMPT/v1/...`` belongs to that attempt; what comes to ``/v1/...`` to the
    trace that its ``traceparent`` names, or to a rollout of its own. The routes of the store server are there too. The
    server runs on a thread of its own; every method may be called from any thread. A context manager.
    """

    def __init__(
        self,
        backends: Any,  # noqa: ANN401 - a URL, a mapping, an LLM, a Backend, or a list of these
        *,
        store: LightningStore,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: TokenFile | None = None,
        ledger_folder: Path | None = None,
    ) -> None:
        """Make it; nothing is served before ``start``.

        Args:
            backends: Where the models are: a URL such as ``http://127.0.0.1:8000/v1``, a mapping with the fields of
                ``Backend``, an ``LLM``, or a list of these.
            store: Where the spans go.
            host: Address to listen on; another one than loopback needs *tokens*.
            port: 0 takes a free one.
            tokens: Who may call.
            ledger_folder: Where the spans are counted; None: beside the store.

        Raises:
            SettingError: A backend is no such thing, or the address can be reached from elsewhere without tokens.
        """
        self.backends = backends_of(backends)
        self.store = store
        self._ledger_folder = ledger_folder
        self._options = ServerOptions(host=host, port=port, tokens=tokens)
        self._rules = AccessRules(host, tokens, ())
        self._url: str | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._sink: SpanSink | None = None

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients, such as ``http://127.0.0.1:40000/v1``; the port is known once it is started."""
        return (self._url or base_url(self._options, self._options.port)) + "/v1"

    def start(self) -> Self:
        """Start serving, and return when requests are taken; a second call does nothing while it runs.

        Raises:
            StoreUnavailableError: The address cannot be had.
        """
        if self.is_running():
            return self
        listener = bind(self._options)
        self._url = base_url(self._options, listener.getsockname()[1])
        self._sink = SpanSink(self.store, self._ledger_folder)
        behind = create_app(self.store, self._rules)
        has_tokens = self._options.tokens is not None
        relay = Relay(Pool(self.backends), self._sink, self._rules, behind, has_tokens=has_tokens)
        config = make_config(relay, self._options)
        config.proxy_headers = False  # a layer less for each call
        config.date_header = False  # the backend's is passed on
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=_serve, args=(server, relay, listener), name="agentlightning-proxy", daemon=True
        )
        thread.start()
        self._server, self._thread = server, thread
        wait_until_started(server, f"the proxy at {self._url}")
        return self

    def stop(self) -> None:
        """End after the requests under way, and write their spans; a second call does nothing. The store stays open."""
        server, thread, sink = self._server, self._thread, self._sink
        self._server = self._thread = self._sink = None
        if server is not None and thread is not None:
            server.should_exit = True
            thread.join(_STOP_TIMEOUT_S * 2)
        if sink is not None:
            sink.close(_STOP_TIMEOUT_S)

    def is_running(self) -> bool:
        """Tell whether requests are taken."""
        return self._thread is not None and self._thread.is_alive()

    def as_resource(self, rollout_id: str | None = None, attempt_id: str | None = None) -> LLM:
        """Return the model as a resource.

        Without ids it is a ``ProxyLLM``, which becomes that of an attempt when an agent gets it; with both it is an
        ``LLM`` whose calls belong to that attempt.

        Raises:
            ValueError: Only one of the two ids is given.
        """
        model = next((backend.model for backend in self.backends if backend.model), None) or "default"
        resource = ProxyLLM(endpoint=self.url, model=model, api_key="proxy")
        if rollout_id is None and attempt_id is None:
            return resource
        return LLM(endpoint=resource.get_base_url(rollout_id, attempt_id), model=model, api_key="proxy")

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self.stop()


def _serve(server: uvicorn.Server, relay: Relay, listener: Any) -> None:  # noqa: ANN401 - a socket
    async def run() -> None:
        """Serve until the server is told to end, then close the connections to the backends."""
        await server.serve([listener])
        await relay.close()

    with guard("proxy.serve"), listener:
        asyncio.run(run())
