"""``agl sessions`` in narrow terminals, with wrong arguments and damaged files, and the rows of ``agl doctor``."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from ai_agents.cli import check
from ai_agents.cli.sessions import command
from ai_agents.telemetry import TaskStatus, TelemetryCollector, TelemetryDataStore

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two sessions, one of them with a name that is hard to show."""
    store = TelemetryDataStore(tmp_path)
    for session_id, tokens in (("first", 100), ("second\x1b[31m", 200)):
        collector = TelemetryCollector(session_id)
        collector.start_task("t\x1b[2J", "d")
        for _ in range(3):
            collector.record_tool_usage("text_grep", 0.5)
        collector.record_llm_call(model="gpt-4o-mini", prompt_tokens=tokens, duration=1.0)
        collector.end_task("t\x1b[2J", TaskStatus.COMPLETED)
        session = collector.finalize_session()
        store.store_session_data(session_id, session)
        assert store.flush_to_disk()
    return tmp_path


def agl(folder: Path, *words: str, **environment: str) -> Result:
    """Run ``agl sessions`` on a folder."""
    return CliRunner().invoke(command, [*words, "--dir", str(folder)], env=environment)


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120])
def test_list_fits_the_width(folder: Path, columns: int) -> None:
    """Whatever the width, no line is longer, and tokens are shown; names cannot drive the terminal."""
    answer = agl(folder, "ls", COLUMNS=str(columns))
    assert answer.exit_code == 0
    assert max(map(len, answer.output.splitlines())) <= columns
    assert "TOKENS" in answer.output
    assert "200" in answer.output
    assert "\x1b" not in answer.output + agl(folder, "show", COLUMNS=str(columns)).output


def test_bars_fit_the_width(folder: Path) -> None:
    """Charts keep within a narrow terminal, and uses of one tool are one line."""
    lines = agl(folder, "show", "first", COLUMNS="40").output.splitlines()
    assert max(len(line) for line in lines if "█" in line or "#" in line) <= 40
    assert "  tool text_grep: 1.50 s in 3 uses" in lines


def test_comparison_fits_the_width(folder: Path) -> None:
    """Two sessions stand side by side in 40 columns; what has no room there is how much the figures changed."""
    for columns, has_change in ((40, False), (80, True)):
        output = agl(folder, "compare", "first", "sec", COLUMNS=str(columns)).output
        assert max(map(len, output.splitlines())) <= columns
        assert ("+100%" in output) is has_change


def test_json(folder: Path) -> None:
    """Every command that shows has a document, whose money is a text with all its digits."""
    found = json.loads(agl(folder, "ls", "--json").output)
    assert (found["version"], found["type"]) == (1, "sessions")
    newest, first = found["sessions"]
    assert (first["session_id"], first["total_tokens"], first["tools"], first["cost_usd"]) == (
        "first",
        100,
        3,
        "0.000015",
    )
    assert first["end_time"] >= first["start_time"]
    shown = json.loads(agl(folder, "show", newest["session_id"], "--json").output)
    assert (shown["type"], shown["total_tokens"], shown["session"]["tasks"][0]["status"]) == (
        "session",
        200,
        "completed",
    )
    assert all(set(one) == {"text", "evidence"} for one in shown["advice"])
    both = json.loads(agl(folder, "compare", "first", "sec", "--json").output)
    assert (both["type"], both["one"]["total_tokens"], both["other"]["total_tokens"]) == ("comparison", 100, 200)
    sums = json.loads(agl(folder, "stats", "--json").output)
    assert (sums["type"], sums["sessions"], sums["total_tokens"], sums["cost_usd"]) == (
        "session_stats",
        2,
        300,
        "0.000045",
    )


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("show", "nobody"), 1, "there is no session 'nobody'; 'agl sessions ls' lists them"),
        (("show", "../first"), 1, "there is no session '../first'"),
        (("show", ""), 1, "2 sessions begin with ''"),
        (("ls", "-n", "0"), 2, "0 is not in the range"),
        (("compare", "first"), 2, "Missing argument 'OTHER'"),
        (("export", "-o", "/no/such/folder/x.json"), 1, "/no/such/folder/x.json cannot be written"),
        (("export", "-o", "x.pdf"), 2, "a chart is written to a .png or .html file"),
        (("nothing",), 2, "No such command 'nothing'"),
    ],
)
def test_wrong_arguments(folder: Path, words: tuple[str, ...], code: int, text: str) -> None:
    """A wrong argument is one line that says what is wrong, with 2 for wrong use and 1 for what is not there."""
    answer = agl(folder, *words)
    assert (answer.exit_code, text in answer.output) == (code, True), answer.output


def test_nothing_to_show(tmp_path: Path) -> None:
    """No folder, a file in its place, and a folder without sessions are said."""
    assert "is not there" in agl(tmp_path / "none", "ls").output
    (tmp_path / "file").touch()
    assert "is no folder" in agl(tmp_path / "file", "ls").output
    empty = agl(tmp_path, "ls")
    assert (empty.exit_code, "no sessions in" in empty.output) == (0, True)
    assert agl(tmp_path, "stats").exit_code == 0
    assert not (tmp_path / "none").exists()


def test_damaged_files(folder: Path) -> None:
    """A damaged file is said to be, and the others are shown; one with missing times has no absurd duration."""
    (folder / "2026_01_01_bad.json").write_text("{")
    answer = agl(folder, "show", "bad")
    assert (answer.exit_code, "damaged and was put aside" in answer.output) == (1, True)
    (folder / "2026_01_02_odd.json").write_text('{"session_id": "odd", "tasks": [{"llm_calls": 3}, 7]}')
    listed = agl(folder, "ls", COLUMNS="120").output
    assert "first" in listed
    assert "bad" not in listed
    assert next(line for line in listed.splitlines() if line.startswith("odd")).split()[3] == "0.0s"


def test_export_kinds(folder: Path, tmp_path: Path) -> None:
    """The kind of file is told by its ending, in upper case too; JSON goes to the output where no file is named."""
    assert json.loads(agl(folder, "export", "first").output)["session_id"] == "first"
    for name, text in (("a.JSON", '"session_id"'), ("a.CSV", "text_grep"), ("a.HTML", "<h1>")):
        assert agl(folder, "export", "first", "-o", str(tmp_path / name)).exit_code == 0
        assert text in (tmp_path / name).read_text()


def rows() -> dict[str, tuple[bool, str]]:
    """Return what the doctor is told, by what was looked at."""
    return {what: (good, text) for good, what, text in check.findings()}


def test_doctor_says_why_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """'Data is not collected': switched off, left out, or not installed, each by its name."""
    assert rows()["sessions"][1].startswith("recorded where ai_agents is imported; TelemetryManager.is_enabled()")
    monkeypatch.setenv("AGL_INSTRUMENT", "-smolagents")
    assert "AGL_INSTRUMENT=-smolagents leaves smolagents out" in rows()["sessions"][1]
    monkeypatch.setenv("AGL_INSTRUMENT", "openai")
    assert "AGL_INSTRUMENT=openai leaves smolagents out" in rows()["sessions"][1]
    monkeypatch.delenv("AGL_INSTRUMENT")
    monkeypatch.setitem(sys.modules, "smolagents", None)
    assert "pip install 'agentlightning[smolagents]'" in rows()["sessions"][1]
    monkeypatch.setenv("AGL_ENABLED", "0")
    assert rows()["sessions"][1] == "not recorded: AGL_ENABLED is 0"


def test_doctor_says_what_room_there_is(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """'No storage space': how much is there, how much is free, how to delete, and where nothing can be written."""
    assert rows()["session files"] == (True, f"0 files, 0.0 MB in {isolated}/.cache/ept/sop_agents")
    assert not (isolated / ".cache").exists()
    store = TelemetryDataStore()
    (store.storage_dir / "2026_01_01_bad.json").write_text("{")
    assert store.get_session_data("bad") is None
    assert "1 of them damaged and put aside" in rows()["session files"][1]
    monkeypatch.setattr(check, "free_bytes", Mock(return_value=2**20))
    good, text = rows()["session files"]
    assert (good, "only 1 MB are free: " in text, "cleanup_old_data(max_age_days=7)" in text) == (False, True, True)
    shutil.rmtree(isolated / ".cache")
    (isolated / ".cache").touch()
    good, text = rows()["session files"]
    assert (good, "cannot be written" in text) == (False, True)


def test_doctor_says_what_it_costs() -> None:
    """'It costs too much': where the measured figure is, and the two settings that lower it."""
    good, text = rows()["session cost"]
    assert good
    assert all(name in text for name in ("overhead_us_per_span", "flush_interval", "max_memory_sessions"))
