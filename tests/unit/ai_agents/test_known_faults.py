"""Every fault that is known of telemetry for smolagents has a regression test, which names it in its docstring.

O1 to O19 were seen in OpenInference's instrumentor for smolagents, B1 to B26 in an earlier telemetry of this kind.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
FOLDERS = ("*/ai_agents", "integration/instrumentation/smolagents_agents")

FAULTS = {
    "O1": "model classes of the program have no span",
    "O2": "the span of a run that fails never ends, and keeps its context",
    "O3": "a stream that is closed early keeps its span the current one",
    "O4": "a stream that is never read keeps its context",
    "O5": "a stream that is read in another thread falls apart",
    "O6": "two streams that are read in turns have each other's spans",
    "O7": "the caller's own spans between two items become part of the run",
    "O8": "a streamed run that fails ends as one that went well",
    "O9": "the output of a streamed run is the text of all its items",
    "O10": "planning is not in the tokens",
    "O11": "a failing tool's exception is there twice",
    "O12": "tools with a __call__ of their own have no span",
    "O13": "spans of tools are called after their class",
    "O14": "a message without token counts breaks the agent",
    "O15": "uninstrumenting leaves methods wrapped",
    "O16": "long conversations lose their head to the limit of attributes",
    "O17": "the task of a run is that of the run before",
    "O18": "images, names and agents are taken to have a certain form",
    "O19": "nothing on cost, session, planning or files",
    "B1": "nobody calls the instrumentation",
    "B2": "the error handler is called wrongly, and the error reaches the agent",
    "B3": "inherited methods are wrapped twice",
    "B4": "real models are not covered",
    "B5": "streams and interrupts are not recorded as they end",
    "B6": "calls never reach the agent they belong to",
    "B7": "an agent inside a task ends it",
    "B8": "the wrapper is not like the agent",
    "B9": "the memory instruction is lost where agents write code",
    "B10": "what is open at the end is not in the sums",
    "B11": "calls without a task are lost, and overlapping tasks count twice",
    "B12": "open tasks are not in the file",
    "B13": "midnight makes a second file, and cleaning deletes files of others",
    "B14": "an id leads out of the folder",
    "B15": "files are open to others for a moment",
    "B16": "it needs fcntl",
    "B17": "signal handlers are taken",
    "B18": "hooks pile up with each reset",
    "B19": "it costs something when off",
    "B20": "counters are not exact under threads",
    "B21": "damaged files stay where they are",
    "B22": "logging is configured at import",
    "B23": "sessions are sent away",
    "B24": "contents and credentials are stored",
    "B25": "it needs litellm",
    "B26": "files of other releases are not read",
}


@cache
def covered() -> dict[str, set[str]]:
    """Return the tests that name each fault."""
    found: dict[str, set[str]] = {fault: set() for fault in FAULTS}
    files = [file for pattern in FOLDERS for folder in TESTS.glob(pattern) for file in folder.glob("test_*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for group in re.findall(r"\(([OB]\d+(?:, [OB]\d+)*)\)", ast.get_docstring(node) or ""):
                    for fault in group.split(", "):
                        found[fault].add(node.name)
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_has_a_regression_test(fault: str) -> None:
    """A known fault is named by a test, so that none is lost when tests are changed."""
    assert covered()[fault], f"no test names {fault}: {FAULTS[fault]}"
