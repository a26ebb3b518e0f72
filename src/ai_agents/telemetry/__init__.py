"""Session telemetry for agents: what was asked for, what ran, how long, with how many tokens and at what cost.

Everything that the libraries' spans tell is recorded by itself; the collector takes what a program records by hand.
Names resolve on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_agents.telemetry.agent import TelemetryContext, TelemetryInstrumentedAgent, telemetry_context
    from ai_agents.telemetry.collector import TelemetryCollector
    from ai_agents.telemetry.data_store import TelemetryDataStore
    from ai_agents.telemetry.error_handler import (
        TelemetryErrorHandler,
        create_fallback_session,
        ensure_safe_json_serialization,
        get_error_handler,
        log_telemetry_error,
        safe_instrumentation,
        safe_storage_operation,
        safe_telemetry_call,
        safe_telemetry_operation,
        with_fallback_data,
    )
    from ai_agents.telemetry.instrumentation import AgentInstrumentor, instrument_smolagents_models
    from ai_agents.telemetry.manager import TelemetryManager
    from ai_agents.telemetry.types import (
        AgentExecution,
        AgentType,
        CodeMetrics,
        EnvironmentInfo,
        LLMCall,
        TaskExecution,
        TaskStatus,
        TelemetrySession,
        TokenUsage,
        ToolExecution,
        deserialize_telemetry_data,
        serialize_telemetry_data,
    )

__all__ = [
    "AgentExecution",
    "AgentInstrumentor",
    "AgentType",
    "CodeMetrics",
    "EnvironmentInfo",
    "LLMCall",
    "TaskExecution",
    "TaskStatus",
    "TelemetryCollector",
    "TelemetryContext",
    "TelemetryDataStore",
    "TelemetryErrorHandler",
    "TelemetryInstrumentedAgent",
    "TelemetryManager",
    "TelemetrySession",
    "TokenUsage",
    "ToolExecution",
    "create_fallback_session",
    "deserialize_telemetry_data",
    "ensure_safe_json_serialization",
    "get_error_handler",
    "instrument_smolagents_models",
    "log_telemetry_error",
    "safe_instrumentation",
    "safe_storage_operation",
    "safe_telemetry_call",
    "safe_telemetry_operation",
    "serialize_telemetry_data",
    "telemetry_context",
    "with_fallback_data",
]

_HOMES = {
    "agent": "TelemetryContext TelemetryInstrumentedAgent telemetry_context",
    "collector": "TelemetryCollector",
    "data_store": "TelemetryDataStore",
    "error_handler": (
        "TelemetryErrorHandler create_fallback_session ensure_safe_json_serialization get_error_handler "
        "log_telemetry_error safe_instrumentation safe_storage_operation safe_telemetry_call "
        "safe_telemetry_operation with_fallback_data"
    ),
    "instrumentation": "AgentInstrumentor instrument_smolagents_models",
    "manager": "TelemetryManager",
    "types": (
        "AgentExecution AgentType CodeMetrics EnvironmentInfo LLMCall TaskExecution TaskStatus TelemetrySession "
        "TokenUsage ToolExecution deserialize_telemetry_data serialize_telemetry_data"
    ),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    """Resolve a public name on first use (PEP 562)."""
    from importlib import import_module  # noqa: PLC0415 - only when a name is resolved

    home = next((module for module, names in _HOMES.items() if name in names.split()), None)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    """Offer the public names before they are loaded."""
    return sorted({*globals(), *__all__})
