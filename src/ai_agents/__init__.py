"""A small framework for agents on smolagents, and the telemetry of their sessions.

Built on the public names of ``agentlightning``; the telemetry alone needs no smolagents. Names resolve on first use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_agents.micro_agents import create_agent_from_yaml

__all__ = ["create_agent_from_yaml"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    """Resolve a public name on first use (PEP 562)."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from ai_agents import micro_agents  # noqa: PLC0415 - loads smolagents

    value = globals()[name] = getattr(micro_agents, name)
    return value


def __dir__() -> list[str]:
    """Offer the public names before they are loaded."""
    return sorted({*globals(), *__all__})


if os.environ.get("AGL_ATTEMPT_ID"):
    # Under `agl run` the spans are there without a call; their session is too.
    from ai_agents.telemetry.manager import TelemetryManager

    TelemetryManager.get_instance().initialize()
