"""agl bench as a user starts it: a table and a document, an earlier result beside it, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner

from agentlightning.cli.bench import measure, result, suite
from agentlightning.cli.bench.machine import machine, surrounding
from agentlightning.cli.main import group

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = {
    "span", "span_bare", "span_joined", "span_busy", "emit_reward", "emit_message", "emit_event", "emit_custom",
    "emit_object", "emit_exception", "ingest", "durable", "kept", "flush", "memory",
}  # fmt: skip


def made(ratio: float) -> result.Report:
    """Return a report of one row."""
    row = result.row_of(result.Kind("span", "ours / the batch processor", "us"), [ratio] * 3, [1.0] * 3)
    return result.Report(
        version=result.VERSION, type="bench", is_quick=True, taken_s=1.0, machine=machine(), rows=[row]
    )


def returning(ratio: float) -> Callable[..., result.Report]:
    """Return what stands for a run that took hours."""

    def run(*, quick: bool, told: object) -> result.Report:
        return made(ratio)

    return run


@pytest.mark.timeout(60)
def test_the_suite_measures_everything_and_leaves_nothing(tmp_path: Path) -> None:
    """Agl bench --quick --json has every row as a ratio of two figures, and leaves no file anywhere."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary), "AGL_STORE": str(home / "mine.db")}
    done = subprocess.run(
        [sys.executable, "-m", "agentlightning.cli", "bench", "--quick", "--json"],
        env=environment, cwd=home, capture_output=True, text=True, timeout=55, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows) == NAMES
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["ratio"] > 0 for row in rows.values())
    assert rows["kept"]["ours"] == 1.0
    assert document["machine"] == machine()
    assert list(home.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_settings_of_the_user_play_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a store, nor a sampling rate, nor a variable of OpenTelemetry reaches what is measured."""
    for name in ("AGL_SAMPLE_RATE", "AGL_STORE", "OTEL_SDK_DISABLED", "TRACEPARENT"):
        monkeypatch.setenv(name, "0")
    kept = surrounding(tmp_path)
    assert kept["AGL_STORE"] == str(tmp_path / "bench.db")
    assert not {"AGL_SAMPLE_RATE", "OTEL_SDK_DISABLED", "TRACEPARENT"} & set(kept)


@pytest.mark.parametrize(("now", "code", "verdict"), [(1.0, 0, "within noise"), (2.0, 1, "worse"), (0.5, 0, "better")])
def test_an_earlier_result_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: float, code: int, verdict: str
) -> None:
    """--compare says better, worse or within noise beside each row, states its rule, and ends with 1 for worse."""
    monkeypatch.setattr(suite, "run", returning(now))
    file = tmp_path / "before.json"
    file.write_bytes(msgspec.json.encode(made(1.0)))
    answer = CliRunner().invoke(group, ["bench", "--compare", str(file)], standalone_mode=False)
    assert answer.return_value == code
    assert f"{verdict}, before 1.000" in answer.output
    assert "more than 10% and by more than the noise of both runs" in answer.output
    told = CliRunner().invoke(group, ["bench", "--compare", str(file), "--json"], standalone_mode=False)
    assert json.loads(told.stdout)["changes"][0]["verdict"] == verdict


def test_what_json_printed_can_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document of --json, written to a file, is what --compare reads; the same figures are within noise."""
    monkeypatch.setattr(suite, "run", returning(1.0))
    file = tmp_path / "before.json"
    file.write_text(CliRunner().invoke(group, ["bench", "--json"], standalone_mode=False).output)
    answer = CliRunner().invoke(group, ["bench", "--compare", str(file)], standalone_mode=False)
    assert "within noise" in answer.output


def test_another_machine_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of another machine is compared, and the difference is named."""
    monkeypatch.setattr(suite, "run", returning(1.0))
    other = msgspec.structs.replace(made(1.0), machine={"cpus": "64"})
    file = tmp_path / "before.json"
    file.write_bytes(msgspec.json.encode(other))
    answer = CliRunner().invoke(group, ["bench", "--compare", str(file)])
    assert "on another machine or other versions: cpus 64" in " ".join(answer.output.split())


def test_a_file_that_cannot_be_compared_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a folder and a file that is no result are refused before anything is measured."""
    monkeypatch.setattr(suite, "run", None)
    for name in ("none.json", "."):
        answer = CliRunner().invoke(group, ["bench", "--compare", str(tmp_path / name)])
        assert answer.exit_code == 2
        assert "Invalid value for '--compare'" in answer.stderr
    (tmp_path / "other.json").write_text('{"version": 1, "type": "doctor"}')
    answer = CliRunner().invoke(group, ["bench", "--compare", str(tmp_path / "other.json")], standalone_mode=False)
    assert "is no result of 'agl bench --json'" in str(answer.exception)


@pytest.mark.parametrize("columns", ["40", "120"])
def test_every_line_fits(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """The table is as wide as the terminal at most, and says which direction is the better one."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(suite, "run", returning(1.0))
    lines = CliRunner().invoke(group, ["bench"]).output.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert "(less is better)" in " ".join(lines)


def test_a_part_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part whose process fails ends the command with 2 and its last line, and no temporary folder stays."""
    monkeypatch.setattr(suite, "PARTS", {"nonsense": measure})
    before = set(Path(tempfile.gettempdir()).glob("agl-bench-*"))
    answer = CliRunner().invoke(group, ["bench", "--quick"], standalone_mode=False)
    assert "the part 'nonsense' of the benchmark failed: KeyError: 'nonsense'" in str(answer.exception)
    assert set(Path(tempfile.gettempdir()).glob("agl-bench-*")) <= before


def test_a_part_that_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that takes too long is ended, and says so."""
    monkeypatch.setattr(suite, "PARTS", {"calls": measure})
    monkeypatch.setattr(suite, "_LONGEST_S", 0.01)
    answer = CliRunner().invoke(group, ["bench", "--quick"], standalone_mode=False)
    assert "the part 'calls' of the benchmark took longer than 0.01 s" in str(answer.exception)
