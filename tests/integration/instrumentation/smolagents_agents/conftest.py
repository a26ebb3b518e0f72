"""smolagents, instrumented, and what agents are built of in the tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.instrumentation.smolagents import SmolagentsInstrumentor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def instrumented(spans: Any) -> Iterator[SmolagentsInstrumentor]:
    """The library, instrumented."""
    instrumentor = SmolagentsInstrumentor()
    instrumentor.instrument(spans.provider)
    yield instrumentor
    instrumentor.uninstrument()


@pytest.fixture
def kit() -> Any:
    """Models, tools and agents: the ones by which sessions are tested too."""
    place = Path(__file__).parents[2] / "ai_agents" / "scripted.py"
    spec = importlib.util.spec_from_file_location("ai_agents_scripted", place)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.get(spec.name)
    if module is None:
        # The tools of smolagents look up their own source, and so their module.
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def read() -> Callable[[Any, str], dict[str, Any]]:
    """Read the attributes of the first span of a name."""

    def attributes(spans: Any, name: str) -> dict[str, Any]:
        return next(dict(span.attributes) for span in spans.all() if span.name == name)

    return attributes
