"""No credential that a program handles is on the disk afterwards: not in the store, its journals, logs or exports."""

from __future__ import annotations

import json
import random
import sqlite3
import string
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Lab

PROGRAM = """
import json, os, sys
from opentelemetry import trace
from opentelemetry.trace import Link, Status, StatusCode
keys = json.loads(os.environ.pop("PLANTED"))
tracer = trace.get_tracer("planted")
for key in keys:
    with tracer.start_as_current_span("outer") as outer:
        outer.set_attribute("input.value", json.dumps({"messages": [{"role": "user", "content": f"use {key}"}]}))
        outer.set_attribute("tool.parameters", json.dumps({"body": json.dumps({"note": f"line\\n{key}\\nline"})}))
        outer.set_attribute("arguments", ["a", key])
        outer.set_attribute("url.full", f"https://example.org/v1?q={key}&n=1")
        outer.add_event(f"event {key}", {"detail": f"got {key}."})
        outer.set_status(Status(StatusCode.ERROR, f"refused {key}"))
    with tracer.start_as_current_span(f"call {key}", links=[Link(outer.get_span_context(), {"why": key})]):
        pass
    try:
        with tracer.start_as_current_span("failing"):
            raise RuntimeError(f"Incorrect API key provided: {key}")
    except RuntimeError:
        pass
with tracer.start_as_current_span("the-last-span") as span:
    span.set_attribute("prompt_token_ids", list(range(2000)))
print(len(keys))
"""

BLOCKED = """
import os, sqlite3
connection = sqlite3.connect(os.environ["AGL_STORE"].removeprefix("sqlite:///"), isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
from agentlightning.tracer.provider import get_tracer
get_tracer()  # installs the provider, as agl run does
"""
"""Beginning of a program that nobody waits for and whose store is blocked until it ends."""


def planted() -> list[str]:
    """Return keys of several vendors, made now so that none is in a file of the repository."""
    source = random.Random()
    letters = string.ascii_letters + string.digits

    def some(count: int, alphabet: str = letters) -> str:
        return "".join(source.choice(alphabet) for _ in range(count))

    return [
        f"sk-proj-{some(74)}T3BlbkFJ{some(74)}",
        f"sk-ant-api03-{some(93)}AA",
        f"ghp_{some(36)}",
        f"AKIA{some(16, string.ascii_uppercase + '234567')}",
        f"gsk_{some(52)}",
        f"hf_{some(34, string.ascii_letters)}",
        f"xoxb-{some(12, '123456789')}-{some(12, '123456789')}-{some(24)}",
        f"AIza{some(35)}",
        f"lsv2_pt_{some(32, '0123456789abcdef')}_{some(10, '0123456789abcdef')}",
    ]


def traces_of(keys: list[str], *folders: Path) -> list[tuple[str, str]]:
    """Return in which files below *folders* a key, or the middle of one, stands."""
    found: list[tuple[str, str]] = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                found += [(path.name, key[:8]) for key in keys if key[8:28].encode() in content]
    return found


@pytest.mark.parametrize("reachable", [True, False], ids=["stored", "spilled"])
def test_no_planted_credential_is_on_the_disk(lab: Lab, isolated: Path, reachable: bool) -> None:
    """Byte search over database, WAL, spill, ledger, the DEBUG log and every export; the spans themselves are there."""
    keys = planted()
    lab.environment |= {"AGL_LOG_LEVEL": "DEBUG", "PLANTED": json.dumps(keys)}
    lab.run([sys.executable, "-c", "from agentlightning.store.url import open_writer; open_writer().close()"])
    if reachable:
        end = lab.python(PROGRAM)
    else:
        lab.environment |= {"AGL_FLUSH_TIMEOUT_S": "3"}
        end = lab.run([sys.executable, lab.script(BLOCKED + PROGRAM.replace("trace.get_tracer", "get_tracer"))])
    assert end.stdout.split()[-1:] == [str(len(keys)).encode()], end.stderr.decode()[-2000:]
    log = end.stderr
    assert b"agl DEBUG" in log or not reachable
    assert not [key[:8] for key in keys if key[8:28].encode() in log + end.stdout]
    assert traces_of(keys, isolated, lab.folder) == []
    if not reachable:
        files = [path for path in isolated.rglob("*") if path.is_file() and ".spill" in str(path)]
        assert any(b"the-last-span" in path.read_bytes() for path in files), files
    else:
        (lab.folder / "out").mkdir()
        agl = str(Path(sys.executable).with_name("agl"))
        shown = lab.run([agl, "show", "latest", "--json"])
        exported = lab.run([agl, "export", "--format", "jsonl", "-o", str(lab.folder / "out" / "x.jsonl")])
        tree, doctor = lab.run([agl, "show", "latest"]), lab.run([agl, "doctor"])
        assert b"[redacted github-pat:" in tree.stdout
        assert b" github-pat" in doctor.stdout
        text = tree.stdout + doctor.stdout + shown.stdout + exported.stdout + exported.stderr
        assert b"[REDACTED:" in shown.stdout
        assert not [key[:8] for key in keys if key[8:28].encode() in text]
        assert traces_of(keys, isolated, lab.folder) == []
        connection = sqlite3.connect(lab.store)
        count = connection.execute("SELECT count(*) FROM spans WHERE end_ns IS NOT NULL").fetchone()[0]
        connection.close()
        assert count == 3 * len(keys) + 1
