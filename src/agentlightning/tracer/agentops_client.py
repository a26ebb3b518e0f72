"""The AgentOps client of this process: initialised for a tracer that manages it, joined where it is the user's.

The SDK changes more than itself (environment, ``print``, ``__import__``, providers); ``ManagedClient`` puts all of it
back.
"""

from __future__ import annotations

import builtins
import importlib
import logging
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

from agentlightning._internal.guard import guard
from agentlightning.instrumentation.agentops_transport import metric_exporter
from agentlightning.tracer.provider import MAX_ATTRIBUTES, LightningTracerProvider, get_provider, providers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

log = logging.getLogger("agentlightning.agentops")

_WITHOUT_KEY = "local"
_WRAPPERS = ("agentops.", "opentelemetry.instrumentation.openai")
"""Where the SDK's wrappers are; 0.4.13 has the second one inside."""


def is_installed() -> bool:
    """Tell whether the SDK can be imported."""
    with suppress(ImportError):
        importlib.import_module("agentops")
        return True
    return False


class SdkClient(Protocol):
    """What we use of the SDK's client."""

    initialized: bool


def client() -> SdkClient | None:
    """Return the SDK's client if the program has imported the SDK and initialised it, else None."""
    get_client: Callable[[], SdkClient] | None = getattr(sys.modules.get("agentops"), "get_client", None)
    if get_client is None:
        return None
    with guard("agentops.client"):
        found = get_client()
        return found if getattr(found, "initialized", False) else None
    return None


class _Core(Protocol):
    """What we use of the SDK's tracing core."""

    def shutdown(self) -> None:
        """Write what waits, and end the provider."""


def _core() -> _Core:
    """Return the SDK's tracing core, which each release keeps elsewhere."""
    module = importlib.import_module("agentops.sdk.core")
    return module.tracer if hasattr(module, "tracer") else module.TracingCore.get_instance()


def join() -> None:
    """Let spans of the client come to us: its provider need not be the global one. Nothing without a client."""
    if client() is None:
        return
    core = _core()
    provider = getattr(core, "provider", None) or getattr(core, "_provider", None)
    if isinstance(provider, TracerProvider):
        providers.join(provider)
        get_provider()


def endpoints(url: str) -> dict[str, str]:
    """Return the variables that send the SDK to the server at *url*."""
    return {
        "AGENTOPS_API_KEY": os.environ.get("AGENTOPS_API_KEY") or _WITHOUT_KEY,
        "AGENTOPS_API_ENDPOINT": url,
        "AGENTOPS_APP_URL": url,
        "AGENTOPS_EXPORTER_ENDPOINT": url + "/v1/traces",
    }


class ManagedClient:
    """The client of this process between ``start`` and ``undo``. Used under its tracer's lock."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._undo: list[Callable[[], None]] = []

    def start(self, url: str | None) -> bool:
        """Initialise the client against the server at *url*; tell whether it is initialised now.

        A client that the program has initialised stays as it is. Without *url* the SDK asks nobody: the instrumentor
        answers for the service. Never raises: without a client tracing goes on by other means.
        """
        if client() is not None:
            join()
            return True
        variables = endpoints(url) if url else {"AGENTOPS_API_KEY": os.environ.get("AGENTOPS_API_KEY") or _WITHOUT_KEY}
        # The SDK writes a file into the working directory, and one trace for everything, unless it is told not to.
        quiet = {"AGENTOPS_LOGGING_TO_FILE": "false", "AGENTOPS_AUTO_START_SESSION": "false"}
        self._set_environment({**{name: os.environ.get(name, value) for name, value in quiet.items()}, **variables})
        self._remember()
        try:
            with _parts_of_ours():
                importlib.import_module("agentops").init(auto_start_session=False)
        except Exception as error:  # noqa: BLE001 - the SDK raises its own and bare exceptions; the program goes on
            log.warning("the AgentOps client cannot be initialised (%s)", type(error).__name__)
        if client() is None:
            self.undo()
            return False
        self._undo.append(_reset_client)
        join()
        return True

    def undo(self) -> None:
        """Put everything back; what waits is written first. A second call does nothing."""
        while self._undo:
            with guard("agentops.undo"):
                self._undo.pop()()

    def _set_environment(self, variables: dict[str, str]) -> None:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)

        def undo() -> None:
            """Put the variables back that still have the values given here."""
            for name, value in before.items():
                if os.environ.get(name) != variables[name]:
                    continue  # the program has changed it since
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

        self._undo.append(undo)

    def _remember(self) -> None:
        """Note what the SDK replaces in the process."""
        show, load = builtins.print, builtins.__import__
        metrics: Any = importlib.import_module("opentelemetry.metrics._internal")
        traces: Any = trace_api
        of_traces = (traces._TRACER_PROVIDER, traces._TRACER_PROVIDER_SET_ONCE._done)  # noqa: SLF001 - no public way back
        of_metrics = (metrics._METER_PROVIDER, metrics._METER_PROVIDER_SET_ONCE._done)  # noqa: SLF001 - no public way back

        def undo() -> None:
            """Put ``print``, ``__import__`` and the providers back."""
            builtins.print, builtins.__import__ = show, load
            traces._TRACER_PROVIDER, traces._TRACER_PROVIDER_SET_ONCE._done = of_traces  # noqa: SLF001 - see above
            metrics._METER_PROVIDER, metrics._METER_PROVIDER_SET_ONCE._done = of_metrics  # noqa: SLF001 - see above

        self._undo.append(undo)


@contextmanager
def _parts_of_ours() -> Generator[None]:
    """Let the SDK make a provider whose root spans share the trace of their rollout, and that drops no attributes.

    And an exporter of metrics that stays on this machine: no variable sets its address.
    """
    core: Any = importlib.import_module("agentops.sdk.core")
    own, original, metrics = get_provider(), core.TracerProvider, core.OTLPMetricExporter
    core.OTLPMetricExporter = metric_exporter(metrics, stay=True)
    if isinstance(own, LightningTracerProvider):

        class RolloutProvider(original):
            """The SDK's provider with our ids of traces and our limits."""

            def __init__(self, *args: object, **kwargs: object) -> None:
                limits = SpanLimits(max_span_attributes=MAX_ATTRIBUTES, max_events=MAX_ATTRIBUTES)
                original.__init__(self, *args, **{"id_generator": own.id_generator, "span_limits": limits, **kwargs})

        core.TracerProvider = RolloutProvider
    try:
        yield
    finally:
        core.TracerProvider, core.OTLPMetricExporter = original, metrics


def _reset_client() -> None:
    """Write what the SDK holds, take its wrappers off, and let it be initialised again."""
    found = client()
    with guard("agentops.uninstrument"):
        importlib.import_module("agentops.instrumentation").uninstrument_all()
        _unwrap_openai()
    with guard("agentops.shutdown"):
        _core().shutdown()
    if found is not None:
        found.initialized = False


def _unwrap_openai() -> None:
    """Take off the wrappers that the SDK leaves on the resources of openai: a second ``init`` would double them."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("openai.resources."):
            continue
        for owner in [value for value in vars(module).values() if isinstance(value, type)]:
            for key, method in list(vars(owner).items()):
                bare = _without_wrappers(method)
                if bare is not method:
                    setattr(owner, key, bare)


def _without_wrappers(method: Any) -> Any:  # noqa: ANN401 - a method, wrapped by wrapt or not
    while str(getattr(getattr(method, "_self_wrapper", None), "__module__", "")).startswith(_WRAPPERS):
        method = method.__wrapped__
    return method
