"""What importing the package costs and gives."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import agentlightning

ROOT = Path(__file__).parents[3]
KEPT = Path(__file__).with_name("public_api.txt")
OUR_MODULES = 5
ORDERS = ("forward", "backward")

# Run in a process of its own: what this one has loaded says nothing.
REPORT_IMPORT = """
import json, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith(("socket.", "subprocess.")) else None)
before = set(sys.modules)
import agentlightning
new = sorted(set(sys.modules) - before)
ours = [name for name in new if name.partition(".")[0] == "agentlightning"]
foreign = [name for name in new if name.partition(".")[0] not in sys.stdlib_module_names | {"agentlightning"}]
print(json.dumps({"ours": ours, "foreign": foreign, "opened": opened}))
"""

# A lazy name that a submodule of the same name hides is a function first and a module later, or the other way round.
# Each case is a process of its own, forked from one that has loaded what packages of others take most time to load.
REPORT_NAMES = """
import importlib, inspect, json, os, pkgutil, sys, traceback
import fastapi, google.protobuf.text_format, httpx, opentelemetry.sdk.trace, pydantic, uvicorn
def check(package, order):
    package = importlib.import_module(package)
    names = sorted(package.__all__, reverse=order == "backward")
    first = {}
    for turn in range(2):
        for name in names:
            scope = {}
            exec(f"from {package.__name__} import {name} as value", scope)
            value = first.setdefault(name, scope["value"])
            assert value is scope["value"], f"{name} changed between two imports"
            assert not inspect.ismodule(value), f"{name} is a module"
        # Whoever imports a submodule must not change what the names of the package mean.
        for info in pkgutil.iter_modules(package.__path__):
            if info.name in names:
                importlib.import_module(f"{package.__name__}.{info.name}")
    return str(len(first))
assert not [name for name in sys.modules if name.startswith("agentlightning")]
found = {}
for case in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            answer = check(*case)
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, answer[-4000:].encode())
        os._exit(0)
    os.close(writer)
    found[" ".join(case)] = os.read(reader, 5000).decode()
    os.close(reader)
    os.wait()
print(json.dumps(found))
"""


def run_python(code: str, *arguments: str) -> str:
    """Return what *code* prints in a fresh interpreter."""
    command = [sys.executable, "-c", code, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def packages_with_names() -> list[str]:
    """Return the root and its packages that have public names."""
    folders = sorted(path.parent.name for path in (ROOT / "src/agentlightning").glob("[!_]*/__init__.py"))
    modules = [importlib.import_module(name) for name in ("agentlightning", *(f"agentlightning.{f}" for f in folders))]
    return [module.__name__ for module in modules if hasattr(module, "__all__")]


def test_import_is_cheap_and_quiet() -> None:
    """Importing the package loads at most five modules of ours, nothing third-party, and opens nothing."""
    report = json.loads(run_python(REPORT_IMPORT))
    assert "agentlightning" in report["ours"]
    assert len(report["ours"]) <= OUR_MODULES, report["ours"]
    assert report["foreign"] == []
    assert report["opened"] == []


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    """Return for each package and order how many names it has, or what went wrong."""
    cases = [(package, order) for package in packages_with_names() for order in ORDERS]
    return json.loads(run_python(REPORT_NAMES, json.dumps(cases)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("package", packages_with_names())
def test_names_mean_the_same_in_every_order(package: str, order: str, reports: dict[str, str]) -> None:
    """Every public name is the same object at each import, whatever was imported before it."""
    report = reports[f"{package} {order}"]
    assert report.isdecimal(), report
    assert int(report) == len(set(importlib.import_module(package).__all__)) > 0


def test_all_names_are_listed_once_and_offered() -> None:
    """``dir()`` offers every public name before it is loaded, and ``__all__`` names none twice."""
    assert len(set(agentlightning.__all__)) == len(agentlightning.__all__) > 0
    assert set(agentlightning.__all__) <= set(dir(agentlightning))


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that is not there is an AttributeError, as for any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        agentlightning.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    "module", ["agentlightning.types.core", "agentlightning.types.tracer", "agentlightning.emitter.utils"]
)
def test_modules_that_programs_import_by_path_are_there(module: str) -> None:
    """Modules that existing programs import by their path stay at that path."""
    assert importlib.import_module(module).__name__ == module


def test_public_api_is_the_kept_one() -> None:
    """The public surface changes on purpose only: run ``scripts/public_api.py --write`` and note it for users."""
    command = [sys.executable, str(ROOT / "scripts/public_api.py")]
    now = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert now == KEPT.read_text(encoding="utf-8")
