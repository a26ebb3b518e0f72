"""The tracer of the AgentOps SDK: its spans, with token ids, in our store.

What records, the first that is there: the SDK, mended; OpenInference; our own part for OpenAI below 2.8; plain
OpenTelemetry. The log says once which one it is (level INFO).
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from typing import Any

from agentlightning import settings
from agentlightning._internal.guard import guard
from agentlightning.errors import AgentLightningError, MissingExtraError
from agentlightning.instrumentation import agentops as sdk
from agentlightning.instrumentation import agentops_transport, registry
from agentlightning.tracer import agentops_client
from agentlightning.tracer.auto import provider
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.otel import OtelTracer
from agentlightning.tracer.processor import LightningSpanProcessor

__all__ = ["AgentOpsTracer", "LightningSpanProcessor"]

log = logging.getLogger("agentlightning.agentops")

_OPENINFERENCE_FROM = (2, 8)


class AgentOpsTracer(OtelTracer):
    """Traces with the AgentOps SDK, 0.4.13 to 0.4.21. Any number of rollouts at once; thread-safe.

    ======================= ================= ==================================================================
    ``agentops_managed``    ``instrument_``   what it does
                            ``managed``
    ======================= ================= ==================================================================
    True                    True              local server, environment, ``agentops.init``, instrumentation
    True                    False             the same without instrumentation: no token ids, the SDK as it is
    False                   True              instrumentation; the client is yours, initialised before or later
    False                   False             only takes the spans of your client
    ======================= ================= ==================================================================

    ``init`` starts the server; ``init_worker`` or the first ``trace_context`` does the rest in each process.
    ``teardown``, called as often as ``init``, undoes what it did: workers that are threads share one tracer. Where the
    SDK is absent or cannot be initialised, tracing goes on without it.
    """

    def __init__(self, *, agentops_managed: bool = True, instrument_managed: bool = True, daemon: bool = True) -> None:
        """Make a tracer; nothing happens before ``init`` or the first ``trace_context``.

        Args:
            agentops_managed: Start a local server and initialise the SDK against it.
            instrument_managed: Instrument libraries.
            daemon: Whether the server ends with this process by itself; see ``AgentOpsServerManager``.
        """
        super().__init__()
        self.agentops_managed = agentops_managed
        self.instrument_managed = instrument_managed
        self.daemon = daemon
        self._server_url: str | None = None
        self._prepare_state()

    def _prepare_state(self) -> None:
        self._lock = threading.RLock()
        self._manager: sdk.AgentOpsServerManager | None = None
        self._client: agentops_client.ManagedClient | None = None
        self._engine: str | None = None
        self._users = 0
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what belongs to this process; a copy uses its server."""
        own = {"_lock", "_manager", "_client", "_engine", "_users", "_pid"}
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a copy for another process."""
        vars(self).update(state)
        self._prepare_state()

    @property
    def engine(self) -> str | None:
        """What records, in words; None before anything was prepared."""
        return self._engine

    def init(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base class
        """Start the local server, unless it runs, or this is a copy that uses another process's."""
        Tracer.init(self, *args, **kwargs)  # without the preparation, which is done where the workers are
        with guard("agentops.server"):
            self._forget_parent()
            with self._lock:
                self._users += 1
                if self.agentops_managed and settings.get(settings.ENABLED):
                    self._start_server()

    def instrument(self, worker_id: int) -> None:
        """Instrument libraries, the SDK among them, as they are imported."""
        del worker_id
        registry.watch(provider)

    def uninstrument(self, worker_id: int) -> None:
        """Put the SDK back as it was; other libraries stay instrumented: other tracers and ``agl run`` may use them."""
        del worker_id
        sdk.uninstrument_agentops()

    def teardown(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base class
        """Write what is waiting; the last of its users undoes what was done in this process and stops the server."""
        super().teardown(*args, **kwargs)
        with guard("agentops.teardown"):
            self._forget_parent()
            with self._lock:
                self._users = max(0, self._users - 1)
                if self._users == 0:
                    self._undo()

    def get_langchain_handler(self, tags: list[str] | None = None) -> Any:  # noqa: ANN401 - optional package
        """Return a callback handler of the SDK for LangChain, below the span that is current now.

        Raises:
            MissingExtraError: LangChain or the SDK is not installed.
        """
        self._prepare()
        try:
            langchain: Any = importlib.import_module("agentlightning.instrumentation.agentops_langchain")
            return langchain.make_handler(tags)
        except ImportError as error:
            extra, feature = "agentops", "the callback handler for LangChain (and langchain)"
            raise MissingExtraError(extra, feature) from error

    get_langchain_callback_handler = get_langchain_handler

    def _prepare(self) -> None:
        """Do what is missing in this process."""
        if self._engine is not None and self._pid == os.getpid():
            return
        with guard("agentops.prepare"):
            self._forget_parent()
            with self._lock:
                if self._engine is None and settings.get(settings.ENABLED):
                    self._engine = self._start()
                    log.info("AgentOpsTracer records with %s", self._engine)

    def _forget_parent(self) -> None:
        """In a forked child: the server is the parent's, the client was copied and goes on."""
        if self._pid != os.getpid():
            self._prepare_state()

    def _start(self) -> str:
        provider()
        has_sdk = agentops_client.is_installed()
        if self.instrument_managed:
            self.instrument(0)
        if not has_sdk:
            return self._without_sdk()
        if not self.agentops_managed:
            agentops_client.join()
            return "the AgentOps client of the program"
        self._start_server()
        if self._server_url is None and not self.instrument_managed:
            return self._without_sdk()  # nobody would answer the SDK on this machine
        if self._server_url and settings.get(settings.AGENTOPS_MODE) == "LOCAL":
            # Spans come to the store through the provider; over HTTP they would come twice, maybe to another store.
            agentops_transport.kept_here.add(agentops_client.endpoints(self._server_url)["AGENTOPS_EXPORTER_ENDPOINT"])
        started = agentops_client.ManagedClient()
        if not started.start(self._server_url):
            return self._without_sdk()
        self._client = started
        return "the AgentOps SDK"

    def _without_sdk(self) -> str:
        openai: Any = sys.modules.get("openai")
        if not self.instrument_managed:
            return "plain OpenTelemetry"
        if openai is None:
            try:
                openai = importlib.import_module("openai")
            except ImportError:
                return "plain OpenTelemetry"
        numbers = tuple(int(part) for part in str(openai.__version__).split(".")[:2])
        return "OpenInference" if numbers >= _OPENINFERENCE_FROM else "our own part for OpenAI"

    def _start_server(self) -> None:
        if self._server_url is not None:
            return
        manager = sdk.AgentOpsServerManager(self.daemon)
        try:
            manager.start()
        except (AgentLightningError, OSError) as error:
            log.warning("no local AgentOps server: %s", error)
            return
        self._manager, self._server_url = manager, manager.url

    def _undo(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.undo()
        if self.instrument_managed and self._engine is not None:
            self.uninstrument(0)
        self._engine = None
        manager, self._manager = self._manager, None
        if manager is not None:
            self._server_url = None
            manager.stop()
