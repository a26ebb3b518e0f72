"""Capture in a process that ``agl run`` started: called by its ``sitecustomize`` before the program begins.

Standard library only until a watched library is imported: a child that traces nothing pays for this file alone.
"""

from __future__ import annotations

import atexit
import os
import sys

from agentlightning.instrumentation import registry

# As in the registry: ``typing`` takes longer than everything here.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import TracerProvider

    from agentlightning.instrumentation.base import Instrumentor


def start_capture() -> None:
    """Watch imports, so that libraries write spans and a program's own OpenTelemetry spans are kept too."""
    registry.register("opentelemetry", ("opentelemetry.trace",), _opentelemetry)
    registry.watch(provider)
    if os.environ.get("AGL_HTTP", "").strip().lower() in {"1", "true", "yes", "on"}:
        _watch_http()
    atexit.register(keep_interrupt)  # before the program begins, so it runs after everything else


def keep_interrupt() -> None:
    """Let a program that Ctrl-C ended end by SIGINT, as it would alone.

    The interpreter notes the unhandled interrupt and forgets it at the next ``exec`` of a text, which an import in the
    worker thread may well do (dataclasses and named tuples are made so).
    """
    if getattr(sys, "last_type", None) is KeyboardInterrupt:
        try:  # noqa: SIM105 - contextlib is not loaded for it
            exec("raise KeyboardInterrupt")  # noqa: S102 - the only way to note it again
        except KeyboardInterrupt:
            pass


def provider() -> TracerProvider:
    """Return the provider of this process; from now on threads and children inherit the running rollout."""
    from agentlightning._internal.context import home_rollout  # noqa: PLC0415 - only where something is traced
    from agentlightning._internal.guard import guard  # noqa: PLC0415 - see above
    from agentlightning.pipeline.process import prepare_store  # noqa: PLC0415 - loads OpenTelemetry
    from agentlightning.tracer import propagation  # noqa: PLC0415 - loads OpenTelemetry
    from agentlightning.tracer.provider import get_provider  # noqa: PLC0415 - loads OpenTelemetry

    propagation.install()
    if home_rollout() is not None:
        with guard("pipeline.prepare"):
            prepare_store()
    return get_provider()


def _watch_http() -> None:
    """Let HTTP clients be instrumented when they are imported; the part for them is loaded then."""
    for name in ("httpx", "httpx2", "requests", "aiohttp"):
        registry.register(name, (name,), _http_client(name))


def _http_client(name: str) -> Callable[[], Instrumentor]:
    def make() -> Instrumentor:
        """Make the instrumentor of this HTTP client."""
        from agentlightning.instrumentation.http import CLIENTS  # noqa: PLC0415 - loads OpenTelemetry

        return CLIENTS[name]()

    return make


def _opentelemetry() -> Instrumentor:
    from agentlightning.tracer.provider import ProviderInstrumentor  # noqa: PLC0415 - loads OpenTelemetry

    return ProviderInstrumentor()
