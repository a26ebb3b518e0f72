"""Plain data that every layer shares.

The names below resolve on first use: ``types.record`` and ``types.query``, which capture needs, do not load pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_names

if TYPE_CHECKING:
    from agentlightning.types.core import (
        Attempt,
        AttemptedRollout,
        AttemptStatus,
        Dataset,
        GenericResponse,
        Hook,
        ParallelWorkerBase,
        Rollout,
        RolloutConfig,
        RolloutMode,
        RolloutRawResult,
        RolloutStatus,
        Task,
        TaskIfAny,
        TaskInput,
        Triplet,
    )
    from agentlightning.types.resources import (
        LLM,
        NamedResources,
        PromptTemplate,
        ProxyLLM,
        Resource,
        ResourcesUpdate,
        ResourceUnion,
    )
    from agentlightning.types.tracer import (
        Attributes,
        AttributeValue,
        Event,
        Link,
        OtelResource,
        Span,
        SpanAttributeNames,
        SpanContext,
        SpanLike,
        SpanNames,
        TraceState,
        TraceStatus,
        convert_timestamp,
        extract_extra_fields,
    )

__all__ = [
    "LLM",
    "Attempt",
    "AttemptStatus",
    "AttemptedRollout",
    "AttributeValue",
    "Attributes",
    "Dataset",
    "Event",
    "GenericResponse",
    "Hook",
    "Link",
    "NamedResources",
    "OtelResource",
    "ParallelWorkerBase",
    "PromptTemplate",
    "ProxyLLM",
    "Resource",
    "ResourceUnion",
    "ResourcesUpdate",
    "Rollout",
    "RolloutConfig",
    "RolloutMode",
    "RolloutRawResult",
    "RolloutStatus",
    "Span",
    "SpanAttributeNames",
    "SpanContext",
    "SpanLike",
    "SpanNames",
    "Task",
    "TaskIfAny",
    "TaskInput",
    "TraceState",
    "TraceStatus",
    "Triplet",
    "convert_timestamp",
    "extract_extra_fields",
]

_CORE = (
    "Attempt AttemptStatus AttemptedRollout Dataset GenericResponse Hook ParallelWorkerBase Rollout RolloutConfig "
    "RolloutMode RolloutRawResult RolloutStatus Task TaskIfAny TaskInput Triplet"
)
_RESOURCES = "LLM NamedResources PromptTemplate ProxyLLM Resource ResourceUnion ResourcesUpdate"
_TRACER = (
    "AttributeValue Attributes Event Link OtelResource Span SpanContext SpanLike TraceState TraceStatus "
    "convert_timestamp extract_extra_fields"
)

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(_CORE.split(), "agentlightning.types.core"),
        **dict.fromkeys(_RESOURCES.split(), "agentlightning.types.resources"),
        **dict.fromkeys(_TRACER.split(), "agentlightning.types.tracer"),
        **dict.fromkeys(("SpanNames", "SpanAttributeNames"), "agentlightning.semconv"),
    },
)
