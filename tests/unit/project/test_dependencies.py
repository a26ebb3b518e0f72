"""The declared dependencies are the ones that the code uses."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Distribution: what it is imported as, where that differs.
IMPORTED_AS = {
    "opentelemetry-api": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
    "opentelemetry-proto": "opentelemetry",
    "openinference-instrumentation-openai": "openinference",
    "genai-prices": "genai_prices",
    "google-re2": "re2",
    "pyahocorasick": "ahocorasick",
}
COMES_WITH = {
    "pydantic_core",
    "starlette",
    "google",
}  # part of the interfaces of pydantic, fastapi and opentelemetry-proto


def core() -> set[str]:
    """Return the names of the core dependencies."""
    requirements = importlib.metadata.requires("agentlightning") or []
    names = (re.match(r"[\w.-]+", text) for text in requirements if "extra ==" not in text)
    return {match[0] for match in names if match}


def imports(*, top_level: bool) -> set[str]:
    """Return the third-party packages that the sources import, at the top of modules only or anywhere."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if top_level else ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"agentlightning", "ai_agents"}


def test_what_is_declared_is_used() -> None:
    """No core dependency is installed for nothing."""
    used = imports(top_level=False)
    assert {name for name in core() if IMPORTED_AS.get(name, name) not in used} == set()


def test_what_modules_need_is_declared() -> None:
    """A module imports at its top only what a plain install brings."""
    declared = {IMPORTED_AS.get(name, name) for name in core()} | COMES_WITH
    assert imports(top_level=True) - declared == set()


def test_every_core_dependency_is_explained() -> None:
    """ARCHITECTURE says of every core dependency what it is for."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`[^|]*)\|", page, re.MULTILINE))))
    assert core() <= rows
