"""Capture in a process that ``agl run`` started: called by its ``sitecustomize`` before the program begins.

Standard library only until a watched library is imported: a child that traces nothing pays for this file alone.
"""

from __future__ import annotations

from agentlightning.instrumentation import registry

# As in the registry: ``typing`` takes longer than everything here.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from agentlightning.instrumentation.base import Instrumentor


def start_capture() -> None:
    """Watch imports, so that libraries write spans and a program's own OpenTelemetry spans are kept too."""
    registry.register("opentelemetry", ("opentelemetry.trace",), _opentelemetry)
    registry.register("multiprocessing", ("multiprocessing.process",), _multiprocessing)
    registry.watch(provider)


def provider() -> TracerProvider:
    """Return the provider of this process; from now on threads and children inherit the running rollout."""
    from agentlightning.tracer import propagation  # noqa: PLC0415 - loads OpenTelemetry
    from agentlightning.tracer.provider import get_provider  # noqa: PLC0415 - loads OpenTelemetry

    propagation.install()
    return get_provider()


def _opentelemetry() -> Instrumentor:
    from agentlightning.tracer.provider import ProviderInstrumentor  # noqa: PLC0415 - loads OpenTelemetry

    return ProviderInstrumentor()


def _multiprocessing() -> Instrumentor:
    from agentlightning.tracer.children import MultiprocessingInstrumentor  # noqa: PLC0415 - only where it is imported

    return MultiprocessingInstrumentor()
