from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import agentlightning.testing


@pytest.mark.parametrize("name", agentlightning.testing.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """Each name of ``__all__`` is there, twice the same object."""
    package = importlib.import_module("agentlightning.testing")
    assert name in dir(package)
    assert getattr(package, name) is getattr(package, name)


def test_the_model_server_needs_the_standard_library_only() -> None:
    """Starting a model server loads no third-party package, so that it weighs nothing beside what is measured."""
    program = (
        "import sys; before = set(sys.modules); from agentlightning.testing import ModelServer; ModelServer().close();"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["agentlightning"]
