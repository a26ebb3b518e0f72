"""Adapters: the spans of a rollout as training data."""

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it; ``typing`` takes longer than all of this

if TYPE_CHECKING:
    from agentlightning.adapter.base import Adapter, OtelTraceAdapter, TraceAdapter
    from agentlightning.adapter.messages import OpenAIMessages, TraceToMessages
    from agentlightning.adapter.tree import RewardMatchPolicy, TraceTree
    from agentlightning.adapter.triplet import (
        LlmProxyTraceToTriplet,
        TracerTraceToTriplet,
        TraceToTripletBase,
        Transition,
    )

__all__ = [
    "Adapter",
    "LlmProxyTraceToTriplet",
    "OpenAIMessages",
    "OtelTraceAdapter",
    "RewardMatchPolicy",
    "TraceAdapter",
    "TraceToMessages",
    "TraceToTripletBase",
    "TraceTree",
    "TracerTraceToTriplet",
    "Transition",
]

_HOMES = {
    "base": "Adapter OtelTraceAdapter TraceAdapter",
    "messages": "OpenAIMessages TraceToMessages",
    "tree": "RewardMatchPolicy TraceTree",
    "triplet": "LlmProxyTraceToTriplet TraceToTripletBase TracerTraceToTriplet Transition",
}

__getattr__, __dir__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}
)
