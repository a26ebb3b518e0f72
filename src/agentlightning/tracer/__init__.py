"""Tracers: where spans come from and which rollout they belong to."""

from __future__ import annotations

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it; ``typing`` takes longer than all of this

if TYPE_CHECKING:
    from agentlightning.tracer.agentops import AgentOpsTracer
    from agentlightning.tracer.base import Tracer
    from agentlightning.tracer.http import HttpTracer
    from agentlightning.tracer.otel import OtelTracer
    from agentlightning.tracer.processor import LightningSpanProcessor

__all__ = ["AgentOpsTracer", "HttpTracer", "LightningSpanProcessor", "OtelTracer", "Tracer"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AgentOpsTracer": "agentlightning.tracer.agentops",
        "HttpTracer": "agentlightning.tracer.http",
        "LightningSpanProcessor": "agentlightning.tracer.processor",
        "OtelTracer": "agentlightning.tracer.otel",
        "Tracer": "agentlightning.tracer.base",
    },
)
