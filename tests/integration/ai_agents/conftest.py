"""A manager for each test, which leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import agentlightning
from ai_agents.telemetry import TelemetryManager, get_error_handler

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def clean_telemetry() -> Iterator[None]:
    """No manager, no errors, nothing instrumented before and after."""
    TelemetryManager.reset_instance()
    agentlightning.uninstrument_all()  # importing any part of the framework, as other tests do, begins it
    get_error_handler().reset_error_state()
    yield
    TelemetryManager.reset_instance()
    get_error_handler().reset_error_state()
    agentlightning.uninstrument_all()
