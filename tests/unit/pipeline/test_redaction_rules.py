"""Rules by setting, the key of the hashes, and what a process has to load for redaction."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentlightning import settings
from agentlightning.errors import SettingError
from agentlightning.pipeline.redaction import Redactor, engine, rules_hash
from agentlightning.pipeline.redaction.gate import SearchGate, make_gate
from agentlightning.pipeline.redaction.secret_key import key_file, read_or_make

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.types.record import SpanRecord

GITHUB = "ghp_" + "a1B2c3D4e5F6" * 3
BADGE = {"id": "badge", "pattern": "EMP-[0-9]{6}", "gate": ["emp-"]}


def test_a_rule_of_the_user_is_live() -> None:
    """As JSON, as a list, or as a file; with gate words and without; a redactor that exists already takes it over."""
    redactor = Redactor({})
    assert redactor.text("I am EMP-123456") == "I am EMP-123456"
    settings.configure(redact_rules=[BADGE])
    assert re.fullmatch(r"I am \[REDACTED:badge:[0-9a-f]{8}\]", redactor.text("I am EMP-123456"))
    settings.configure(redact_rules=json.dumps([{"id": "badge", "pattern": "no (EMP-[0-9]{6})"}]))
    assert re.fullmatch(r"EMP-1, no \[REDACTED:badge:[0-9a-f]{8}\]", redactor.text("EMP-1, no EMP-123456"))
    settings.configure(redact_rules="")
    assert redactor.text("I am EMP-123456") == "I am EMP-123456"


def test_rules_come_from_a_file_too(tmp_path: Path) -> None:
    """The setting may be a path."""
    (tmp_path / "rules.json").write_text(json.dumps([BADGE]))
    settings.configure(redact_rules=str(tmp_path / "rules.json"))
    assert "[REDACTED:badge:" in Redactor({}).text("EMP-123456")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "No such file"),
        ("[{", "AGL_REDACT_RULES"),
        ('[{"id": "x"}]', "pattern"),
        ('[{"id": "x", "pattern": "a", "pattrn": "b"}]', "pattrn"),
        ('[{"id": "x", "pattern": "(a+"}]', "rule 'x': RE2 does not take its pattern: missing )"),
        ('[{"id": "x", "pattern": "(?=a)b"}]', "rule 'x': RE2 does not take"),
        ('[{"id": "x", "pattern": "a*"}]', "matches the empty text"),
        ('[{"id": "x", "pattern": "(a)(b)"}]', "2 groups"),
        ('[{"id": "a b", "pattern": "a"}]', "no name for a rule"),
    ],
)
def test_a_bad_rule_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, text: str, says: str) -> None:
    """It names the setting and the rule, in ``configure`` and in the environment, and nothing is half applied."""
    with pytest.raises(SettingError, match="AGL_REDACT_RULES") as caught:
        settings.configure(redact_rules=text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert settings.lookup(settings.REDACT_RULES)[1] == "default"
    monkeypatch.setenv("AGL_REDACT_RULES", text)
    with pytest.raises(SettingError):
        settings.check_environment()
    settings.forget()
    with pytest.raises(SettingError):
        Redactor({})


def test_a_pattern_that_would_take_for_ever_does_not() -> None:
    """``(a+)+$`` over 100,000 characters: Python's own engine would not come back."""
    settings.configure(redact_rules=[{"id": "slow", "pattern": "(?:a+)+b!"}])
    began = time.process_time()
    Redactor({}).text("a" * 100_000)
    assert time.process_time() - began < 5


def test_without_re2_a_rule_of_the_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """``re`` is never given a pattern that we do not know."""
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(SettingError, match="google-re2"):
        settings.configure(redact_rules=[{"id": "fresh", "pattern": "fresh-[0-9]+"}])


def test_rules_can_be_switched_off_by_name() -> None:
    """One rule, the key layer, or the value layer as a whole; an unknown name is an error."""
    text = f"{GITHUB} and password: 'hunter2hunter'"
    settings.configure(redact_off=["github-pat", "github-token"])
    assert GITHUB in Redactor({}).text(text)
    settings.configure(redact_off="named")
    assert Redactor({}).text('{"cookie": "abc"}') == '{"cookie": "abc"}'
    settings.configure(redact_off="", redact=False)
    assert Redactor({}).text(GITHUB) == GITHUB
    assert Redactor({}).text('{"cookie": "abc"}') != '{"cookie": "abc"}'
    settings.configure(redact=True, redact_off="no-such-rule")
    with pytest.raises(SettingError, match="no-such-rule"):
        Redactor({})
    with pytest.raises(SettingError, match="nobody"):
        settings.configure(redact_pii="nobody")


def test_the_hash_of_a_rule_set_names_rules_and_options_but_not_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same hash redact the same values."""
    first = rules_hash()
    assert re.fullmatch("[0-9a-f]{16}", first)
    monkeypatch.setenv("AGL_REDACT_KEY", "another")
    settings.forget()
    assert rules_hash() == first
    seen = {first}
    for change in ({"redact_pii": "1"}, {"redact_off": "jwt"}, {"redact_off": "named"}, {"redact_rules": [BADGE]}):
        settings.configure(redact_pii="0", redact_off="", redact_rules="")
        settings.configure(**change)
        assert rules_hash() not in seen
        seen.add(rules_hash())
    settings.configure(redact_pii="0", redact_off="", redact_rules="")
    assert rules_hash() == first


def test_equal_credentials_have_equal_hashes_in_one_store_only(isolated: Path) -> None:
    """A second redactor reads the key of the first; another store has another; ``AGL_REDACT_KEY`` is for several."""
    first = Redactor({}).text(GITHUB)
    assert Redactor({}).text(f"again {GITHUB}") == f"again {first}"
    assert Redactor({}, store_url=f"sqlite:///{isolated}/other.db").text(GITHUB) != first
    file = key_file()
    assert file.parent == isolated
    assert file.stat().st_mode & 0o777 == 0o600
    assert GITHUB not in first
    settings.forget()
    settings.configure(redact_key="shared")
    shared = Redactor({}).text(GITHUB)
    assert shared != first
    assert Redactor({}, store_url=f"sqlite:///{isolated}/other.db").text(GITHUB) == shared


RACE = """
import sys
from pathlib import Path
from agentlightning.pipeline.redaction.secret_key import read_or_make
sys.stdin.read()
print(read_or_make(Path(sys.argv[1])).hex())
"""


def test_processes_that_make_the_key_at_the_same_time_have_the_same(tmp_path: Path) -> None:
    """Four processes and eight threads: one key, complete, for its owner only."""
    path = tmp_path / "new" / "key"
    command = [sys.executable, "-c", RACE, str(path)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    keys = {process.communicate("", timeout=60)[0].strip() for process in started}
    with ThreadPoolExecutor(8) as pool:
        keys |= {key.hex() for key in pool.map(read_or_make, [path] * 8)}
        fresh = set(pool.map(read_or_make, [tmp_path / "second"] * 8))
    assert len(keys) == len(fresh) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["key"]


def test_a_key_file_that_is_damaged_or_a_link_is_not_used(tmp_path: Path, isolated: Path) -> None:
    """Redaction goes on with a key of this process."""
    key_file().write_bytes(b"short")
    assert "[REDACTED:github-pat:" in Redactor({}).text(GITHUB)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"link"):
        read_or_make(tmp_path / "link")


def test_a_slower_engine_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where there are no wheels, the same values are found, and the log says once what that costs."""
    monkeypatch.setitem(sys.modules, "re2", None)
    monkeypatch.setitem(sys.modules, "ahocorasick", None)
    monkeypatch.setitem(sys.modules, "hyperscan", None)
    monkeypatch.setattr("agentlightning.pipeline.redaction.gate._said", set[str]())
    engine.default_compile.cache_clear()
    try:
        with caplog.at_level("WARNING", "agentlightning"):
            for _ in range(2):
                assert isinstance(make_gate({"a": 1}), SearchGate)
                assert engine.default_compile() is engine.compile_with_re
    finally:
        engine.default_compile.cache_clear()
    assert len(caplog.messages) == 2
    assert "pyahocorasick" in caplog.text
    assert "google-re2" in caplog.text


def test_the_engines_load_with_the_first_text_that_is_looked_at() -> None:
    """Neither the package nor the pipeline loads them, so that a program's start does not wait."""
    code = (
        "import sys, agentlightning, agentlightning.pipeline.process\n"
        "from agentlightning.pipeline.redaction import Redactor\n"
        "made = Redactor({}); before = {'re2', 'ahocorasick', 'hyperscan'} & set(sys.modules); made.text('x');"
        "print(sorted(before), 're2' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[] True"


def test_marks_survive_a_second_redactor(make_record: Callable[..., SpanRecord]) -> None:
    """A server that redacts what a client has redacted changes nothing."""
    record = make_record(attributes={"a": f"x {GITHUB}", "api_key": "s3cret-value", "b": {"password": ["p1", "p2"]}})
    Redactor({}).redact(record)
    before = dict(record.attributes)
    Redactor({}).redact(record)
    assert record.attributes == before


@pytest.mark.parametrize("arguments", [["redact", "test", "-"], ["redact", "test", "-", "--json"]])
def test_the_dry_run_shows_what_would_be_replaced(arguments: list[str]) -> None:
    """Rule, line and the first four characters; exit code 1 when something was found, 0 when nothing was."""
    command = [str(Path(sys.executable).with_name("agl")), *arguments]
    text = f"first line\nthen {GITHUB} here\n"
    answer = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 1
    assert GITHUB[:9] not in answer.stdout
    if "--json" in arguments:
        assert (
            json.loads(answer.stdout)["findings"][0] | {"line": 2, "column": 6, "rule": "github-pat"}
            == json.loads(answer.stdout)["findings"][0]
        )
    else:
        assert "2:6" in answer.stdout
        assert "ghp_…" in answer.stdout
        clean = subprocess.run(command, input="plain\n", capture_output=True, text=True, check=False, timeout=60)
        assert (clean.returncode, clean.stdout[:7]) == (0, "nothing")
