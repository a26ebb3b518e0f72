"""What a user gets from the package index: the wheel, built and installed into clean environments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

pytestmark = [
    pytest.mark.timeout(300, func_only=False),  # the first run on a machine fetches the packages
    pytest.mark.xdist_group("wheel"),  # one build for all
]

ROOT = Path(__file__).parents[3]
# As it was before a fixture gave the test a home of its own: the cache of packages lies in the real one.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
MAX_MEGABYTES = 45
MAX_PACKAGES = 50


@dataclass(frozen=True)
class Installed:
    """A clean environment that has the wheel and nothing else."""

    version: str
    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment away from the source tree."""
        program, *arguments = command
        return run(str(self.folder / "bin" / program), *arguments, cwd=self.folder)


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run *command*, and show what it said when it fails."""
    answer = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=280)
    assert answer.returncode == 0, f"{command} ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}"
    return answer


def pythons() -> dict[str, str]:
    """Return the interpreters to test: 3.11 (or this one) and the oldest on this machine."""
    lines = run(sys.executable, str(ROOT / "scripts/pythons.py")).stdout.splitlines()
    present = dict(line.split(" ", 1) for line in lines)
    wanted = {"3.11", next(iter(present))}
    return {version: path for version, path in present.items() if version in wanted}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel once."""
    folder = tmp_path_factory.mktemp("dist")
    run(uv.find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=pythons().items(), ids=lambda item: item[0])
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel into a clean environment of each Python."""
    version, python = request.param
    folder = tmp_path_factory.mktemp(f"python{version}") / "venv"
    run(uv.find_uv_bin(), "venv", "--quiet", "--python", python, str(folder))
    run(uv.find_uv_bin(), "pip", "install", "--quiet", "--python", str(folder / "bin/python"), str(wheel))
    return Installed(version, folder)


def test_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    """The wheel ships the typed package with its data files, and no test, script or example."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "agentlightning/py.typed" in names
    assert "ai_agents/py.typed" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"agentlightning", "ai_agents"}
    tracked = run("git", "ls-files", "src").stdout.split()
    missing = {name.removeprefix("src/") for name in tracked} - set(names)
    assert missing == set()
    assert [name for name in names if "test_" in name or "/tests/" in name or "__pycache__" in name] == []


def test_command_and_imports_work(installed: Installed) -> None:
    """A plain install has a working command and a working import, and says the same version in both."""
    said = installed.run("agl", "--version").stdout
    code = "import agentlightning, importlib.metadata as m; agentlightning.Span; print(m.version('agentlightning'))"
    version = installed.run("python", "-W", "error", "-c", code).stdout.strip()
    assert version
    assert version in said


def test_every_module_can_be_imported(installed: Installed) -> None:
    """No module needs an extra to be imported, so a missing one is met with our own message and not a traceback."""
    code = (
        "import importlib, pkgutil, agentlightning, ai_agents\n"
        "for info in [*pkgutil.walk_packages(agentlightning.__path__, 'agentlightning.'),\n"
        "             *pkgutil.walk_packages(ai_agents.__path__, 'ai_agents.')]:\n"
        "    if not info.name.endswith('__main__'): print(importlib.import_module(info.name).__name__)\n"
    )
    names = installed.run("python", "-c", code).stdout.split()
    assert "agentlightning.settings" in names


def test_install_is_small(installed: Installed) -> None:
    """A plain install stays within 45 MB and 50 packages."""
    listing = run(uv.find_uv_bin(), "pip", "list", "--format", "json", "--python", str(installed.folder / "bin/python"))
    packages = json.loads(listing.stdout)
    files = [path for path in (installed.folder / "lib").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"\nPython {installed.version}: {len(packages)} packages, {megabytes:.1f} MB (without compiled files)")
    assert len(packages) <= MAX_PACKAGES
    assert megabytes <= MAX_MEGABYTES
