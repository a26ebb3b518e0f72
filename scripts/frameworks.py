"""Run the contract of the frameworks where each is installed, and write its results as the table of a page of the docs.

``python scripts/frameworks.py`` makes the environments (see ``scripts/matrix.py``), runs
``tests/contract/frameworks`` in them and replaces the table in ``docs/frameworks.md``. ``--uv`` names the uv to use.
Standard library only. Ends with 1 when a cell is a failure.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from typing import TYPE_CHECKING

from matrix import ENVIRONMENTS, ROOT, prepare
from pythons import pythons

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "frameworks.md"
BEGIN, END = "<!-- made by scripts/frameworks.py -->", "<!-- end -->"
HOMES = {
    "plain_openai": ("plain openai", "frameworks", "openai"),
    "langchain": ("LangChain (`create_agent`)", "frameworks", "langchain"),
    "autogen": ("AutoGen (agentchat)", "frameworks", "autogen-agentchat"),
    "openai_agents": ("OpenAI Agents SDK", "frameworks", "openai-agents"),
    "litellm": ("LiteLLM", "litellm", "litellm"),
    "smolagents": ("smolagents", "frameworks", "smolagents"),
}
"""For each example what it is called, where it runs, and whose version is shown."""
COLUMNS = {
    "tree": "tree", "tokens": "tokens", "cost": "cost", "tool_calls": "tool calls", "streaming": "streaming",
    "errors": "errors", "token_ids": "token ids", "threads": "threads", "tasks": "tasks", "wrap": "`wrap`",
    "uninstrument": "undone",
}  # fmt: skip
"""Tests, and what their columns are called."""


def results(interpreter: Path, report: Path) -> dict[tuple[str, str], str]:
    """Run the contract with *interpreter* and return the outcome of each test by framework and column."""
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
    subprocess.run(
        [*command, f"--junitxml={report}", "tests/contract/frameworks"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=900,
    )
    found: dict[tuple[str, str], str] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        match = re.fullmatch(r"test_(\w+)\[(\w+)\]", case.get("name", ""))
        if match is None:
            continue
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "**no**"
        else:
            outcome = "-" if case.find("skipped") is not None else "yes"
        found[match[2], match[1]] = outcome
    return found


def versions(interpreter: Path, package: str) -> str:
    """Return the version of *package*."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def table(uv: str) -> tuple[str, bool]:
    """Return the table, and whether every cell that is tested holds."""
    runs: dict[str, tuple[Path, dict[tuple[str, str], str]]] = {}
    for name in sorted({home for _, home, _ in HOMES.values()}):
        environment = ENVIRONMENTS[name]
        interpreter = prepare(uv, name, environment, pythons()[environment.python])
        runs[name] = interpreter, results(interpreter, interpreter.parents[1] / "frameworks.xml")
    lines = ["| | version | " + " | ".join(COLUMNS.values()) + " |", "| --- " * (len(COLUMNS) + 2) + "|"]
    for example, (title, home, package) in HOMES.items():
        interpreter, found = runs[home]
        cells = [found.get((example, column), "**no**") for column in COLUMNS]
        lines.append(f"| {title} | {versions(interpreter, package)} | " + " | ".join(cells) + " |")
    text = "\n".join(lines)
    return text, "**no**" not in text


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    uv = "uv"
    if find_spec("uv") is not None:
        import uv as package  # noqa: PLC0415 - of the test environment

        uv = package.find_uv_bin()
    parser.add_argument("--uv", default=uv, help="the uv to use")
    made, holds = table(parser.parse_args().uv)
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(f"{page[:start]}\n{made}\n{page[end:]}", encoding="utf-8")
    print(made)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
