"""Run the test suite in other environments and print one result line for each: ``make matrix``.

Names as arguments choose environments (``make matrix ENV="openai-1"``). Each lives in ``.venvs/NAME``, its log beside
it in ``.venvs/NAME.log``. Standard library only. Ends with 1 when a test failed, and with 2 for an unknown name.
``--prepare`` only makes the environments and prints their interpreters.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import chromium
from pythons import pythons

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venvs"
TIME_LIMIT_S = 1800
# Lint-like tests and the wheel are the same in every environment.
ELSEWHERE = ("--ignore=tests/unit/project", "--ignore=tests/acceptance/project")
SHOWN = ("openai", "smolagents", "opentelemetry-sdk", "openinference-instrumentation-openai")


@dataclass(frozen=True)
class Environment:
    """One combination of Python and packages; what is not named is the newest that is supported."""

    python: str = "3.11"
    packages: dict[str, str] = field(default_factory=dict[str, str])
    marker: str = "not slow"
    tests: tuple[str, ...] = ()
    """What is run there, with options of pytest; all tests when empty."""
    needs_browser: bool = False
    """Whether there has to be a Chromium, which is installed where none is."""


LANGCHAIN = {  # the newest that are known to install together
    "langchain": "langchain<=1.4.7",
    "langchain-core": "langchain-core<=1.7.2",
    "langchain-openai": "langchain-openai<=1.7.3",
    "langchain-classic": "langchain-classic>=1,<2",
}


def agentops(version: str) -> Environment:
    """Return the environment of one release of the AgentOps SDK, which pins wrapt, psutil and packaging low."""
    packages = {"agentops": f"agentops=={version}", **LANGCHAIN}
    tests = ("tests/acceptance/agentops", "tests/integration/instrumentation", "tests/integration/tracer")
    return Environment(packages=packages, marker="slow or not slow", tests=tests)


FRAMEWORKS = {
    "openai-agents": "openai-agents>=0.24,<1",
    "autogen-agentchat": "autogen-agentchat>=0.7.5,<0.8",
    "autogen-ext": "autogen-ext[openai]>=0.7.5,<0.8",
    "openinference-langchain": "openinference-instrumentation-langchain>=0.1.80,<0.2",
    "openinference-openai-agents": "openinference-instrumentation-openai-agents>=2.6,<3",
    "openinference-autogen": "openinference-instrumentation-autogen-agentchat>=0.1.22,<0.2",
    "requests": "requests>=2.32,<3",
    "aiohttp": "aiohttp>=3.10,<4",
}
LITELLM = {  # wants openai below 3, and mcp for its types
    "openai": "openai>=2.20,<3",
    "litellm": "litellm>=1.83,<=1.106.2",
    "mcp": "mcp",
    "openinference-litellm": "openinference-instrumentation-litellm>=0.1.51,<0.2",
}
# Frameworks leave sockets to the garbage collector.
FRAMEWORK_TESTS = (
    "-p", "no:unraisableexception",
    "tests/contract/frameworks", "tests/acceptance/frameworks", "tests/integration/instrumentation/http",
)  # fmt: skip

NEWEST = {"openai": "openai>=3,<4", "smolagents": "smolagents[openai]>=1.26,<2"}
ENVIRONMENTS = {
    "long": Environment(marker="slow or not slow"),
    "openai-1": Environment(packages={"openai": "openai>=1.69,<2"}),
    "openai-2": Environment(packages={"openai": "openai>=2.8,<3"}),
    "smolagents-oldest": Environment(packages={"smolagents": "smolagents[openai]==1.15.*"}),
    "opentelemetry-oldest": Environment(packages={"otel": "opentelemetry-sdk==1.36.*"}),
    "python-3.10": Environment(python="3.10"),
    "python-3.12": Environment(python="3.12"),
    "python-3.13": Environment(python="3.13"),
    "python-3.14": Environment(python="3.14"),
    "frameworks": Environment(packages={**LANGCHAIN, **FRAMEWORKS}, tests=FRAMEWORK_TESTS),
    "litellm": Environment(
        packages=LITELLM, tests=(*FRAMEWORK_TESTS, "tests/integration/instrumentation/litellm_calls")
    ),
    "hyperscan": Environment(packages={"hyperscan": "hyperscan>=0.7,<1"}, tests=("tests/unit/pipeline",)),
    "browser": Environment(marker="slow or not slow", tests=("tests/ui",), needs_browser=True),
    "agentops-0.4.13": agentops("0.4.13"),
    "agentops-0.4.16": agentops("0.4.16"),
    "agentops-0.4.18": agentops("0.4.18"),
    "agentops-0.4.21": agentops("0.4.21"),
}


def quiet(*command: str | Path) -> str:
    """Return what *command* prints.

    Raises:
        subprocess.CalledProcessError: It failed; its output is in the error.
    """
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return done.stdout


def prepare(uv: str, name: str, environment: Environment, python: str) -> Path:
    """Make the environment, or bring it up to date, and return its interpreter."""
    folder = FOLDER / name
    quiet(uv, "venv", "--quiet", "--allow-existing", "--python", python, folder)
    interpreter = folder / "bin" / "python"
    packages = [*{**NEWEST, **environment.packages}.values()]
    quiet(uv, "pip", "install", "--quiet", "--python", interpreter, "--group", "test", "--editable", ".", *packages)
    return interpreter


def versions(interpreter: Path) -> str:
    """Return the versions that tell environments apart."""
    code = f"from importlib.metadata import version\nfor name in {SHOWN!r}: print(name, version(name))"
    return ", ".join(quiet(interpreter, "-c", code).splitlines())


def run(interpreter: Path, name: str, environment: Environment) -> tuple[int, str]:
    """Run the suite; return its exit status and its closing line."""
    log = FOLDER / f"{name}.log"
    # The log keeps everything, so that a failure can be read without another run.
    chosen = environment.tests or ELSEWHERE
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", environment.marker, *chosen]
    clean = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    if environment.needs_browser:
        clean["CHROMIUM"] = chromium.find() or chromium.install()
    with log.open("w", encoding="utf-8") as stream:
        status = subprocess.run(
            command, cwd=ROOT, env=clean, stdout=stream, stderr=subprocess.STDOUT, check=False, timeout=TIME_LIMIT_S
        ).returncode
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip("= ") for line in lines if line.strip()]
    # Behind pytest's summary may come what the interpreter says at its end.
    summaries = [line for line in said if re.match(r"\d+ (passed|failed|skipped|error)", line)]
    return status, (summaries or said or ["no output"])[-1]


def result(uv: str, name: str) -> tuple[int, str]:
    """Return 0 or 1 and the result line of one environment; an absent Python is a skip and no failure."""
    environment = ENVIRONMENTS[name]
    python = pythons().get(environment.python)
    if python is None:
        return 0, f"skipped: no Python {environment.python} on this machine"
    start = time.monotonic()
    try:
        interpreter = prepare(uv, name, environment, python)
        status, closing = run(interpreter, name, environment)
    except subprocess.CalledProcessError as error:
        return 1, f"could not be set up: {str(error.stdout).strip().splitlines()[-1:]}"
    except OSError as error:
        return 1, str(error)
    except subprocess.TimeoutExpired:
        return 1, f"stopped after {time.monotonic() - start:.0f} s"
    return int(status != 0), f"{closing} | Python {environment.python}, {versions(interpreter)}"


def main() -> int:
    """Run the environments that were asked for, all without a name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="the uv to use")
    parser.add_argument("--prepare", action="store_true", help="only make the environments; print their interpreters")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(ENVIRONMENTS)}")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in ENVIRONMENTS]
    if unknown:
        print(f"no environment {unknown[0]!r}; there are {', '.join(ENVIRONMENTS)}", file=sys.stderr)
        return 2
    FOLDER.mkdir(exist_ok=True)
    failed = 0
    for name in chosen.names or ENVIRONMENTS:
        if chosen.prepare:
            environment = ENVIRONMENTS[name]
            print(prepare(chosen.uv, name, environment, pythons()[environment.python]))
            continue
        status, line = result(chosen.uv, name)
        failed |= status
        print(f"{name:22} {'FAILED' if status else 'ok':7} {line}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
