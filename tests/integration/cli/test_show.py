"""agl show: the tree, the conversations, token ids and JSON of stored rollouts, and what bad input gets."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.types.record import RolloutStart, WriteBatch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import Agl, Writer

# What a name or a status may hold; the pipeline lets no lone surrogate through there.
NASTY = "日本語 \x1b[31mred\x1b]0;title\x07\n\u202eback 👩‍🚀"


def lines_of(text: str) -> list[str]:
    """Return the lines of an output."""
    return text.splitlines()


def test_the_tree_names_what_happened(agl: Agl, writer: Writer) -> None:
    """Totals, errors with their message, rewards, interrupted spans and other processes are on the page."""
    root = writer.span("a", "agent", {"openinference.span.kind": "AGENT"})
    call = writer.call("a", ("user", "hi"), parent_id=root.span_id)
    tool = writer.span(
        "a", "lookup", {"openinference.span.kind": "TOOL"}, parent_id=root.span_id, status_code="ERROR",
        status_description="KeyError: 'x'\nsecond line", process="elsewhere/77/1",
    )  # fmt: skip
    reward = writer.span("a", "agentlightning.reward", {"reward": 0.5})
    left = writer.span("a", "never ends", end_ns=None)
    writer.write(root, call, tool, reward, left, end="failed", task="python a.py")
    out = agl("show", "a")
    assert "python a.py" in out
    assert "5 spans · 1 LLM call · 1,100 tokens (1,000 in, 100 out) · $0.0035 · 1 error" in out
    assert "1 open · reward 0.5 · 2 processes" in out
    assert "✗ tool lookup: KeyError: 'x'" in out
    assert "second line" not in out
    assert "├─ chat gpt-4o" in out
    assert "└─ lookup [pid 77] ✗ KeyError" in out
    assert "never ends (open) [pid 1]" in out
    only_open = agl("show", "a", "--open")
    assert "never ends" in only_open
    assert "lookup [" not in only_open


def test_a_run_of_rollouts_shows_them(agl: Agl, writer: Writer) -> None:
    """A run that recorded nothing itself shows the rollouts inside it, and does not say that nothing was recorded."""
    batch = WriteBatch(
        starts=[
            RolloutStart(rollout_id="ro-run", attempt_id="at-run", project="default", input="python t.py", start_ns=1),
            RolloutStart(
                rollout_id="ro-child", attempt_id="at-child", project="default", input="task 7", start_ns=2,
                metadata={"parent_rollout_id": "ro-run"},
            ),
        ]
    )  # fmt: skip
    writer.store.write_batch(batch)
    writer.write(writer.span("child", "work"), end="succeeded")
    shown = agl("show", "run")
    assert "No span was recorded" not in shown
    assert "Rollouts inside this one:" in shown
    assert "ro-child  succeeded  task 7" in shown


def test_every_mode_survives_anything_in_a_span(agl: Agl, writer: Writer) -> None:
    """Control characters, lone surrogates and numbers that JSON lacks are escaped, on any output encoding."""
    odd: dict[str, Any] = {
        NASTY: NASTY,
        "surrogate": "\ud800",
        "nan": [math.nan, -math.inf],
        "n": 2**70,
        "bytes": b"\xff",
    }
    call = writer.call("a", ("system", NASTY), ("user", NASTY), answer=NASTY, more=odd)
    call.name, call.status_code, call.status_description = NASTY, "ERROR", NASTY
    writer.write(call, task=NASTY)
    for mode in (
        (),
        ("--chat",),
        ("--tokens",),
        ("--raw",),
        ("--span", call.span_id),
        ("--json",),
        ("--chat", "--json"),
    ):
        for encoding in ("utf-8", "ascii", "cp1252"):
            with agl.start("show", "a", *mode, PYTHONIOENCODING=encoding, PYTHONUTF8="0") as process:
                out, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "")
            assert not {"\x1b", "\x07", "\u202e", "\ud800"} & set(out)
            if encoding == "ascii":
                assert out.isascii()
    raw = json.loads(agl("show", "a", "--raw"), parse_constant=pytest.fail)
    assert raw["attributes"]["nan"] == ["NaN", "-Infinity"]
    assert raw["name"].startswith("日本語 \x1b[31m")


def test_a_call_shows_what_it_appended(agl: Agl, writer: Writer) -> None:
    """The history is shown once; long texts are folded until --full."""
    long_text = "\n".join(f"line {number}" for number in range(40))
    first = writer.call("a", ("system", "be kind"), ("user", long_text), answer="two")
    second = writer.call("a", ("system", "be kind"), ("user", long_text), ("assistant", "two"), ("user", "why?"))
    writer.write(first, second)
    out = agl("show", "a", "--chat")
    assert out.count("be kind") == 1
    assert "after the 3 messages of call 1" in out
    assert "… 30 more lines (--full)" in out
    assert "line 20" not in out
    assert "1,000 in, 100 out · $0.0035" in out
    assert "line 20" in agl("show", "a", "--chat", "--full")
    found = json.loads(agl("show", "a", "--chat", "--json"))
    assert [(call["relation"], call["before"], len(call["appended"])) for call in found["calls"]] == [
        ("first", None, 2), ("continues", 1, 1),
    ]  # fmt: skip


def test_drift_is_reported(agl: Agl, writer: Writer) -> None:
    """A turn whose ids do not go on with those before is named with its token and message."""
    ids = {"prompt_token_ids": [1, 2, 3], "response_token_ids": [4, 5]}
    first = writer.call("a", ("user", "hi"), answer="two", more=ids)
    more = {"prompt_token_ids": [1, 2, 3, 45, 6], "response_token_ids": [7]}
    second = writer.call("a", ("user", "hi"), ("assistant", "two"), ("user", "why?"), more=more)
    writer.write(first, second)
    out = agl("show", "a", "--tokens")
    assert "drifts from 1" in out
    assert "token 3: 4 of the answer of call 1 should be there, 45 is there; message 2" in out
    drift = json.loads(agl("show", "a", "--tokens", "--json"))["calls"][1]["drift"]
    assert (drift["before"], drift["position"], drift["cause"]) == (1, 3, "tokens")


def test_the_document_adds_up(agl: Agl, writer: Writer) -> None:
    """--json holds every span with its place in the tree, and the totals of the tree."""
    root = writer.span("a", "root")
    writer.write(root, writer.call("a", parent_id=root.span_id), writer.span("a", "open", end_ns=None))
    found = json.loads(agl("show", "a", "--json"))
    assert (found["version"], found["type"]) == (1, "rollout")
    assert [(span["name"], span["depth"], span["state"]) for span in found["spans"]] == [
        ("root", 1, "ended"), ("chat", 2, "ended"), ("open", 1, "open"),
    ]  # fmt: skip
    assert found["totals"]["cost_usd"] == found["spans"][1]["cost"]["usd"] == "0.0035"


@pytest.mark.parametrize("columns", ["20", "40", "80", "120", "200"])
def test_lines_fit_the_width(agl: Agl, writer: Writer, columns: str) -> None:
    """No line of the tree is wider than the terminal, wide characters counted as two; the name is never lost."""
    from rich.cells import cell_len

    root = writer.span("a", "日本語の名前 " * 30)
    writer.write(root, writer.call("a", parent_id=root.span_id), task="x")
    lines = lines_of(agl("show", "a", COLUMNS=columns))[3:]
    assert all(cell_len(line) <= int(columns) for line in lines)
    assert any("日本" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing"], "there is no rollout 'nothing'"),
        (["show", "ro-"], "several rollouts begin with 'ro-'"),
        (["show", "a1", "--span", "ffff"], "there is no span 'ffff'"),
        (["show", "a1", "--span", "0"], "several spans begin with '0'"),
        (["show", "--chat", "--raw"], "--chat and --raw exclude each other"),
        (["show", "--full"], "--full belongs to --chat"),
        (["show", "--chat", "--open"], "--open belongs to"),
        (["show", "--nope"], "No such option"),
        (["show", "a1", "a2"], "unexpected extra argument"),
        (["ls", "-n", "-1"], "-1 is not in the range"),
        (["cost", "nothing"], "there is no rollout 'nothing'"),
        (["cost", "--by", "moon"], "'moon' is not one of"),
        (["cost", "--since", "soon"], "'soon' is no time"),
        (["cost", "a1", "--since", "1d"], "--since chooses among all"),
        (["cost", "--reprice", "missing.json"], "Cannot read the price table"),
        (["tail", "--rollout", "nothing"], "there is no rollout 'nothing'"),
        (["tail", "--kind", "moon"], "'moon' is not one of"),
    ],
)
def test_bad_input_is_one_clear_line(agl: Agl, writer: Writer, arguments: list[str], message: str) -> None:
    """Wrong usage and unknown ids end with code 2 and one line that says what to do."""
    writer.write(writer.span("a1", "x"), writer.span("a1", "y"))
    writer.write(writer.span("a2", "x"))
    errors = agl(*arguments, code=2)
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", [["show"], ["ls"], ["cost"]])
def test_a_store_that_is_none_is_said_so(agl: Agl, command: list[str], tmp_path: Path) -> None:
    """A missing or corrupt store is one line and code 2, and nothing is made or changed."""
    assert "there is no store at" in agl(*command, code=2)
    assert not agl.path.exists()
    agl.path.write_bytes(b"no database" * 1000)
    assert "damaged or no Agent Lightning store" in agl(*command, code=2)
    assert agl.path.read_bytes() == b"no database" * 1000


def test_an_empty_store_says_what_to_do(agl: Agl, writer: Writer) -> None:
    """Where nothing was recorded, the commands say how to record."""
    assert "agl run python my_agent.py" in agl("ls")
    assert "record one with 'agl run" in agl("show", code=2)
    assert "No LLM call" in agl("cost")


def test_a_list_of_rollouts(agl: Agl, writer: Writer) -> None:
    """The list has the newest first, fits any width, and says the same as JSON."""
    for name in ("first", "second"):
        writer.write(writer.call(name), end="succeeded", task=f"python {name}.py")
    out = lines_of(agl("ls"))
    assert ["python second.py" in out[1], "python first.py" in out[2]] == [True, True]
    for columns in (40, 60, 80, 120, 200):
        assert all(len(line) <= columns for line in lines_of(agl("ls", COLUMNS=str(columns))))
    found = json.loads(agl("ls", "--json"))
    assert [rollout["rollout_id"] for rollout in found["rollouts"]] == ["ro-second", "ro-first"]
    assert found["rollouts"][0]["totals"]["cost_usd"] == "0.0035"
