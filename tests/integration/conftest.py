"""What tests of several topics are built of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def kit() -> Any:
    """Scripted models, tools and agents of smolagents, the same on every release that is supported."""
    place = Path(__file__).parent / "ai_agents" / "scripted.py"
    spec = importlib.util.spec_from_file_location("ai_agents_scripted", place)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.get(spec.name)
    if module is None:
        # The tools of smolagents look up their own source, and so their module.
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module
