"""A manager for each test, which leaves nothing behind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@pytest.fixture
def kit() -> Any:
    """What agents are built of; a module beside the tests, which are no package."""
    spec = importlib.util.spec_from_file_location("ai_agents_scripted", Path(__file__).with_name("scripted.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.get(spec.name)
    if module is None:
        # The tools of smolagents look up their own source, and so their module.
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module
