"""A fresh manager, and a scripted model behind the settings, for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import agentlightning
from agentlightning.testing import AgentRule, ModelServer, ToolCall
from ai_agents.telemetry import TelemetryManager, get_error_handler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAN = (
    ToolCall("file_search", {"pattern": "*.toml"}),
    ToolCall("text_grep", {"pattern": "name"}),
    ToolCall("search_agent", {"task": "Where is the name?"}),
)


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
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """A model that uses the tools it is offered, then answers; the settings lead to it."""
    with ModelServer(AgentRule(plan=PLAN)) as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project, which is the working directory."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'small'\n")
    (tmp_path / "small.py").write_text("name = 'small'\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path
