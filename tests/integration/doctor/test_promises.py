"""What agl doctor promises of itself: quick, readable, discreet, documented, and nothing is changed."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from agentlightning import settings
from agentlightning.cli.doctor.command import command
from agentlightning.cli.doctor.finding import FAIL, Finding
from agentlightning.cli.main import group
from agentlightning.errors import AgentLightningError
from agentlightning.store.upkeep import backup

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.doctor.conftest import Doctor, Programs

RIGHTS = "-dac_override,-dac_read_search"
AGL = (sys.executable, "-m", "agentlightning.cli")
EMIT = "from agentlightning import emit_message, emit_reward\nemit_message('x')\nemit_reward(1.0)\n"


def state(folder: Path) -> dict[str, tuple[bytes, float]]:
    """Return content and time of change of every file."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime) for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--settings",), ("--live", "--once"), ("--follow", "abcd")])
def test_nothing_is_changed(programs: Programs, isolated: Path, arguments: tuple[str, ...]) -> None:
    """No file appears, goes or changes: not in the store's folder, and not in the user's; an old schema stays old."""
    programs.run(EMIT)
    with sqlite3.connect(isolated / "agentlightning.db") as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    pids = isolated / "agentlightning/agentops"
    pids.mkdir(parents=True)
    (pids / "1.pid").write_text("1\n{}\n")
    before = state(isolated)
    CliRunner().invoke(group, ["doctor", *arguments])
    assert state(isolated) == before


def test_without_a_store_none_is_made(isolated: Path, doctor: Doctor) -> None:
    """Looking at a store that is not there does not make it; the row says that nothing was recorded."""
    assert doctor()["store"].found.endswith("nothing recorded yet")
    assert list(isolated.iterdir()) == []


def test_it_is_quick(programs: Programs) -> None:
    """The whole look takes less than 1.5 s of processor time, start of Python included."""
    programs.run(EMIT)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*AGL, "doctor"], check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{taken:.2f} s of 1.5 s")
    assert taken < 1.5


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("no_colour", ["", "1"])
def test_it_can_be_read(monkeypatch: pytest.MonkeyPatch, columns: int, no_colour: str) -> None:
    """In 40 columns too each line fits, levels are words, remedies are marked by a word, and there is no escape."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", no_colour)
    monkeypatch.setenv("AGL_SPILL_BYTES", "0")
    output = CliRunner().invoke(group, ["doctor"]).output
    assert max(map(len, output.splitlines())) <= columns
    assert "\x1b" not in output
    assert output.isascii()
    assert "ok    store" in output
    assert "warn  spill" in output
    assert "do: unset AGL_SPILL_BYTES" in output
    assert re.fullmatch(r"\d+ problems?, \d+ warnings? in \d+ rows", output.splitlines()[-5])


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--settings"], ["--live", "--once"]])
def test_no_secret_is_printed(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """Neither a key, nor a token, nor a password in an address is in any of its outputs."""
    for name in ("AGL_STORE_TOKEN", "AGL_REDACT_KEY", "AGL_AGENTOPS_API_KEY", "AGENTOPS_API_KEY"):
        monkeypatch.setenv(name, "s3cr3t-value")
    monkeypatch.setenv("AGL_STORE", "http://me:s3cr3t-value@127.0.0.1:1")
    monkeypatch.setenv("AGL_HTTP_RETRIES", "0")
    settings.forget()
    answer = CliRunner().invoke(group, ["doctor", *arguments])
    assert "s3cr3t-value" not in answer.output
    assert "s3cr3t-value" not in str(answer.exception)


def test_exit_codes(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, isolated: Path) -> None:
    """0: well, warnings included; 1: a problem; 2: wrong usage, or no store to look at live."""
    monkeypatch.setenv("AGL_SAMPLE_RATE", "0.5")
    assert doctor()["sampling"].level == "warn"
    assert subprocess.run([*AGL, "doctor"], capture_output=True, check=False, timeout=60).returncode == 0
    live = subprocess.run([*AGL, "doctor", "--live", "--once"], capture_output=True, check=False, timeout=60, text=True)
    assert (live.returncode, "there is no store at" in live.stderr) == (2, True)
    wrong = subprocess.run([*AGL, "doctor", "--nonsense"], capture_output=True, check=False, timeout=60)
    assert wrong.returncode == 2
    (isolated / "agentlightning.db").write_text("nothing" * 200)
    assert subprocess.run([*AGL, "doctor"], capture_output=True, check=False, timeout=60).returncode == 1


def test_checks_of_others_are_kept(monkeypatch: pytest.MonkeyPatch, doctor: Doctor) -> None:
    """A check of another package adds its rows, plain or with a remedy; one that fails is a row."""

    class Point:
        name = "mine"

        def __init__(self, found: object) -> None:
            self._found = found

        def load(self) -> Any:
            return lambda: self._found

    def points(*, group: str) -> list[Point]:
        assert group == "agentlightning.checks"
        return [Point([(True, "plain", "fine")]), Point([Finding(FAIL, "own", "bad", "mend it")]), Point(None)]

    monkeypatch.setattr(sys.modules["agentlightning.cli.doctor.command"], "entry_points", points)
    rows = doctor()
    assert (rows["plain"].level, rows["own"].remedy) == ("ok", "mend it")
    assert rows["mine"].found.startswith("its check failed: TypeError")


def test_every_question_is_asked() -> None:
    """The output ends with the questions of the flow and, where none fits, how to get a log and a report."""
    output = CliRunner().invoke(group, ["doctor"]).output
    questions = [line.partition("?")[0] for line in output.splitlines() if "?  " in line]
    assert questions == [
        "Are spans missing", "Has it become slow", "Does memory grow", "Are spans there twice",
        "Does a function misbehave",
    ]  # fmt: skip
    assert "agl -v run PROGRAM 2> agl.log" in output.splitlines()[-2]


def test_settings_are_complete() -> None:
    """--settings prints each setting with its value and source; a wrong one is an error and exit code 2."""
    output = CliRunner().invoke(group, ["doctor", "--settings"]).output
    assert {line.split()[0] for line in output.splitlines()} == {each.variable for each in settings.all_settings()}
    done = subprocess.run(
        [*AGL, "doctor", "--settings"],
        env={**os.environ, "AGL_BATCH_SIZE": "x"}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2


def shown(*arguments: str, code: int = 0) -> str:
    """Return what the command prints, in this process."""
    settings.forget()
    answer = CliRunner().invoke(group, ["doctor", *arguments])
    assert answer.exit_code == 0
    assert answer.return_value in {None, code}
    return answer.stdout


def test_settings_are_a_table() -> None:
    """Values and sources begin in the same columns on every line, however long a name is."""
    lines = shown("--settings").splitlines()
    longest = max(len(each.variable) for each in settings.all_settings())
    assert {line[longest] for line in lines} == {" "}
    assert {line.rindex(" default") for line in lines if len(line) < longest + 41} == {longest + 31}


@pytest.mark.parametrize("columns", [40, 120])
def test_settings_fit(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Each line fits, a name is never cut, and what a variable holds cannot drive the terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("AGL_PROJECT", "\x1b[31mred\x1b[0m" + "x" * 50)
    lines = shown("--settings").splitlines()
    assert max(map(len, lines)) <= columns
    assert "AGL_AGENTOPS_EXPORTER_ENDPOINT" in {line.split()[0] for line in lines}
    assert "\\x1b[31mred" in "".join(line.strip() for line in lines)


def test_settings_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """--settings --json: each setting with value, source and error; a secret is only said to be set."""
    monkeypatch.setenv("AGL_SAMPLE_RATE", "0.5")
    monkeypatch.setenv("AGL_BATCH_SIZE", "many")
    monkeypatch.setenv("AGL_STORE_TOKEN", "agl_secret")
    settings.forget()
    answer = CliRunner().invoke(group, ["doctor", "--settings", "--json"], standalone_mode=False)
    assert answer.return_value == 2
    body = json.loads(answer.stdout)
    assert (body["version"], body["type"]) == (1, "settings")
    found = {each.pop("variable"): each for each in body["settings"]}
    assert found["AGL_SAMPLE_RATE"] == {"value": 0.5, "source": "environment", "error": None}
    assert found["AGL_ENABLED"] == {"value": True, "source": "default", "error": None}
    assert found["AGL_STORE_TOKEN"]["value"] == "(set)"
    assert found["AGL_BATCH_SIZE"]["value"] is None
    assert "AGL_BATCH_SIZE is 'many'; set it to a whole number" in found["AGL_BATCH_SIZE"]["error"]
    assert "AGL_BATCH_SIZE is 'many'" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--live", "--follow", "abcd"), "--live and --follow show different things; give one of them"),
        (("--settings", "--check", "x.py"), "--settings and --check show different things"),
        (("--once",), "--once goes with --live"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[str, ...], message: str) -> None:
    """Two views at once are wrong usage, not one of them by chance."""
    answer = CliRunner().invoke(group, ["doctor", *arguments])
    assert answer.exit_code == 2
    assert message in answer.stderr


def damaged(content: bytes, seed: int) -> bytes:
    """Return a file with a page of noise, a bit turned over, a hole, or without its end."""
    by_chance = random.Random(seed)
    where = by_chance.randrange(len(content))
    page = where // 4096 * 4096
    return (
        content[:page] + by_chance.randbytes(4096) + content[page + 4096 :],
        content[:where] + bytes([content[where] ^ 1 << by_chance.randrange(8)]) + content[where + 1 :],
        content[:where] + bytes(40) + content[where + 40 :],
        content[:where],
    )[seed % 4]


def test_no_damage_is_too_much(programs: Programs, isolated: Path) -> None:
    """Whatever is damaged in a store's file, every view and the check of the store end with words, no traceback."""
    programs.run("from agentlightning import emit_message\nfor n in range(60): emit_message('x' * 300)\n")
    whole, copy = isolated / "whole.db", isolated / "damaged.db"
    backup(isolated / "agentlightning.db", whole)
    content = whole.read_bytes()
    schema = content.index(b"sqlite_autoindex_attempts_")
    candidates = [damaged(content, seed) for seed in range(12)]
    candidates.append(content[: schema + 26] + b"\xb2" + content[schema + 27 :])  # the message of SQLite is no text
    refused = 0
    for candidate in candidates:
        for arguments in (["doctor", "--json"], ["doctor", "--live", "--once"], ["doctor", "--follow", "abcd"],
                          ["store", "verify"]):  # fmt: skip
            copy.write_bytes(candidate)
            settings.forget()
            answer = CliRunner().invoke(group, [*arguments, "--store", str(copy)], standalone_mode=False)
            assert answer.exception is None or isinstance(answer.exception, AgentLightningError), answer.exc_info
            refused += answer.exception is not None or answer.return_value == 1
            for suffix in ("-wal", "-shm"):
                copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    assert refused > len(candidates)


def test_a_store_that_may_not_be_read_is_one_line(programs: Programs, isolated: Path) -> None:
    """Without the right to read the file each view says so; the remedy is the right."""
    programs.run(EMIT)
    path = isolated / "agentlightning.db"
    path.chmod(0)
    plain = [] if os.geteuid() else ["setpriv", "--bounding-set", RIGHTS, "--inh-caps", RIGHTS]
    if plain and shutil.which("setpriv") is None:
        pytest.skip("root may read everything")
    for arguments in (["doctor", "--live", "--once"], ["doctor", "--follow", "abcd"], ["store", "verify"]):
        done = subprocess.run([*plain, *AGL, *arguments], capture_output=True, text=True, check=False, timeout=19)
        assert (done.returncode, done.stderr) == (2, f"agl: cannot open {path}: this user may not read it\n")
    done = subprocess.run([*plain, *AGL, "doctor", "--json"], capture_output=True, text=True, check=False, timeout=19)
    rows = {row["what"]: row for section in json.loads(done.stdout)["sections"] for row in section["rows"]}
    assert rows["store"]["remedy"] == f"chmod u+rw {path}; or name another file with AGL_STORE"


def test_options_are_explained() -> None:
    """Every option of the command has a help text."""
    assert all(getattr(parameter, "help", None) for parameter in command.params)


def test_json_names_what_it_is() -> None:
    """The document has its version and type, the counts, and rows with four fields."""
    document = json.loads(CliRunner().invoke(group, ["doctor", "--json"]).stdout)
    assert (document["version"], document["type"]) == (1, "doctor")
    rows = [row for section in document["sections"] for row in section["rows"]]
    assert all(set(row) == {"level", "what", "found", "remedy"} for row in rows)
    assert document["warnings"] == sum(row["level"] == "warn" for row in rows)
