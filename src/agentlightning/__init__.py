"""Trace any Python agent without touching its code, keep every span, see what it cost, train on the spans.

Public names resolve on first use, so that importing the package costs nothing that is not needed.
"""

from __future__ import annotations

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it; ``typing`` takes longer than all of this

if TYPE_CHECKING:
    from agentlightning._internal.version import __version__
    from agentlightning.adapter import (
        Adapter,
        LlmProxyTraceToTriplet,
        OtelTraceAdapter,
        TraceAdapter,
        TracerTraceToTriplet,
        TraceToMessages,
        TraceToTripletBase,
        TraceTree,
    )
    from agentlightning.algorithm import APO, Algorithm, Baseline, algo
    from agentlightning.emitter import (
        CustomEvent,
        EventDataError,
        EventFactory,
        ExceptionEvent,
        MessageEvent,
        ObjectEvent,
        Outcome,
        Receipt,
        RewardEvent,
        SerializationEngine,
        add_event_handler,
        create_event,
        emit_annotation,
        emit_event,
        emit_exception,
        emit_message,
        emit_object,
        emit_reward,
        find_final_reward,
        find_reward_spans,
        get_reward_value,
        get_reward_values,
        get_supported_types,
        get_target,
        is_reward_span,
        operation,
        register_event_type,
        remove_event_handler,
        reward,
    )
    from agentlightning.errors import (
        AgentLightningError,
        MissingExtraError,
        SettingError,
        StoreCorruptError,
        StoreError,
        StoreFullError,
        StoreUnavailableError,
        StoreVersionError,
        UnknownIdError,
    )
    from agentlightning.execution import (
        ClientServerExecutionStrategy,
        ExecutionError,
        ExecutionEvent,
        ExecutionStrategy,
        SharedMemoryExecutionStrategy,
    )
    from agentlightning.instrumentation import instrument_all, uninstrument_all
    from agentlightning.litagent import FunctionalLitAgent, LitAgent, llm_rollout, prompt_rollout, rollout, wrap
    from agentlightning.pipeline.listener import add_span_listener, remove_span_listener
    from agentlightning.pipeline.process import flush
    from agentlightning.pipeline.watch import ResourceAlert, add_alert_listener, remove_alert_listener
    from agentlightning.runner import Alert, LitAgentRunner, Runner
    from agentlightning.semconv import SpanAttributeNames, SpanNames
    from agentlightning.server.proxy import LLMProxy
    from agentlightning.settings import configure
    from agentlightning.store import LightningStore, SqliteLightningStore, open_store
    from agentlightning.tracer import AgentOpsTracer, LightningSpanProcessor, OtelTracer, Tracer
    from agentlightning.tracer.inherited import span_attributes
    from agentlightning.trainer import Trainer
    from agentlightning.types.core import (
        Attempt,
        AttemptedRollout,
        AttemptStatus,
        Dataset,
        Hook,
        Rollout,
        RolloutConfig,
        RolloutMode,
        RolloutStatus,
        Task,
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
    from agentlightning.types.tracer import Event, Link, OtelResource, Span, SpanContext, SpanLike, TraceStatus

__all__ = [
    "APO",
    "LLM",
    "Adapter",
    "AgentLightningError",
    "AgentOpsTracer",
    "Alert",
    "Algorithm",
    "Attempt",
    "AttemptStatus",
    "AttemptedRollout",
    "Baseline",
    "ClientServerExecutionStrategy",
    "CustomEvent",
    "Dataset",
    "Event",
    "EventDataError",
    "EventFactory",
    "ExceptionEvent",
    "ExecutionError",
    "ExecutionEvent",
    "ExecutionStrategy",
    "FunctionalLitAgent",
    "Hook",
    "LLMProxy",
    "LightningSpanProcessor",
    "LightningStore",
    "Link",
    "LitAgent",
    "LitAgentRunner",
    "LlmProxyTraceToTriplet",
    "MessageEvent",
    "MissingExtraError",
    "NamedResources",
    "ObjectEvent",
    "OtelResource",
    "OtelTraceAdapter",
    "OtelTracer",
    "Outcome",
    "PromptTemplate",
    "ProxyLLM",
    "Receipt",
    "Resource",
    "ResourceAlert",
    "ResourceUnion",
    "ResourcesUpdate",
    "RewardEvent",
    "Rollout",
    "RolloutConfig",
    "RolloutMode",
    "RolloutStatus",
    "Runner",
    "SerializationEngine",
    "SettingError",
    "SharedMemoryExecutionStrategy",
    "Span",
    "SpanAttributeNames",
    "SpanContext",
    "SpanLike",
    "SpanNames",
    "SqliteLightningStore",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreUnavailableError",
    "StoreVersionError",
    "Task",
    "TaskInput",
    "TraceAdapter",
    "TraceStatus",
    "TraceToMessages",
    "TraceToTripletBase",
    "TraceTree",
    "Tracer",
    "TracerTraceToTriplet",
    "Trainer",
    "Triplet",
    "UnknownIdError",
    "__version__",
    "add_alert_listener",
    "add_event_handler",
    "add_span_listener",
    "algo",
    "configure",
    "create_event",
    "emit_annotation",
    "emit_event",
    "emit_exception",
    "emit_message",
    "emit_object",
    "emit_reward",
    "find_final_reward",
    "find_reward_spans",
    "flush",
    "get_reward_value",
    "get_reward_values",
    "get_supported_types",
    "get_target",
    "instrument_all",
    "is_reward_span",
    "llm_rollout",
    "open_store",
    "operation",
    "prompt_rollout",
    "register_event_type",
    "remove_alert_listener",
    "remove_event_handler",
    "remove_span_listener",
    "reward",
    "rollout",
    "span_attributes",
    "uninstrument_all",
    "wrap",
]

_HOMES = {
    "adapter": (
        "Adapter LlmProxyTraceToTriplet OtelTraceAdapter TraceAdapter TraceToMessages TraceToTripletBase TraceTree "
        "TracerTraceToTriplet"
    ),
    "algorithm": "APO Algorithm Baseline algo",
    "emitter": (
        "CustomEvent EventDataError EventFactory ExceptionEvent MessageEvent ObjectEvent Outcome Receipt RewardEvent "
        "SerializationEngine add_event_handler create_event emit_annotation emit_event emit_exception emit_message "
        "emit_object emit_reward find_final_reward find_reward_spans get_reward_value get_reward_values "
        "get_supported_types get_target is_reward_span operation register_event_type remove_event_handler reward"
    ),
    "errors": (
        "AgentLightningError MissingExtraError SettingError StoreCorruptError StoreError StoreFullError "
        "StoreUnavailableError StoreVersionError UnknownIdError"
    ),
    "execution": (
        "ClientServerExecutionStrategy ExecutionError ExecutionEvent ExecutionStrategy SharedMemoryExecutionStrategy"
    ),
    "instrumentation": "instrument_all uninstrument_all",
    "litagent": "FunctionalLitAgent LitAgent llm_rollout prompt_rollout rollout wrap",
    "pipeline.listener": "add_span_listener remove_span_listener",
    "pipeline.watch": "ResourceAlert add_alert_listener remove_alert_listener",
    "pipeline.process": "flush",
    "runner": "Alert LitAgentRunner Runner",
    "semconv": "SpanAttributeNames SpanNames",
    "server.proxy": "LLMProxy",
    "settings": "configure",
    "store": "LightningStore SqliteLightningStore open_store",
    "tracer": "AgentOpsTracer LightningSpanProcessor OtelTracer Tracer",
    "tracer.inherited": "span_attributes",
    "trainer": "Trainer",
    "types.core": (
        "Attempt AttemptStatus AttemptedRollout Dataset Hook Rollout RolloutConfig RolloutMode "
        "RolloutStatus Task TaskInput Triplet"
    ),
    "types.resources": "LLM NamedResources PromptTemplate ProxyLLM Resource ResourceUnion ResourcesUpdate",
    "types.tracer": "Event Link OtelResource Span SpanContext SpanLike TraceStatus",
}
"""Public names by the module that they live in."""

__getattr__, __dir__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}
    | {"__version__": "agentlightning._internal.version"},
)
