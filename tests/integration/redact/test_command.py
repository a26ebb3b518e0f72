"""agl redact as a user starts it: whatever the file is, a table that fits, a document, or one sentence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from agentlightning import settings
from agentlightning.cli.main import group

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

PASSWORD = "password=hunter2secret"
AWS_KEY = "AKIA" + "GFEDCBA7NNDOFSOI"[::-1]


def redact(*arguments: str | Path, code: int = 0, given: bytes = b"") -> Result:
    """Run the command in this process; its exit code has to be *code*."""
    settings.forget()
    answer = CliRunner().invoke(group, ["redact", *map(str, arguments)], input=given, standalone_mode=False)
    assert answer.exception is None
    assert answer.return_value == code
    return answer


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (PASSWORD.encode(), "1:10"),
        (b"\xef\xbb\xbf" + PASSWORD.encode(), "1:10"),
        (f"first\r\n{PASSWORD}\r\n".encode("utf-16"), "2:10"),
        (b"caf\xe9 " + PASSWORD.encode(), "1:15"),
        (b"\0\0\xff" + PASSWORD.encode() + b"\x1b[31m", "1:13"),
    ],
)
def test_any_encoding_is_looked_through(tmp_path: Path, content: bytes, place: str) -> None:
    """UTF-8 with or without its mark, UTF-16 as Windows writes it, and bytes that are no text at all."""
    file = tmp_path / "file"
    file.write_bytes(content)
    shown = redact("test", file, code=1).stdout
    assert shown.split()[:2] == [place, "named"]
    assert shown.replace("\n", "").isprintable()
    assert "hunter2" not in shown


def test_what_is_no_text_is_said(tmp_path: Path) -> None:
    """A binary file is looked through, and that a credential in it may go unseen is said on stderr; text is not."""
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 50)
    answer = redact("test", file)
    assert answer.stdout.startswith("nothing would be replaced in 12,800 characters (rules ")
    assert "no text in UTF-8" in answer.stderr
    assert redact("test", "-", given=b"plain\n").stderr == ""
    assert redact("test", "-").stdout.startswith("nothing would be replaced in 0 characters")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, and one that the system does not give are one sentence and exit code 2."""
    for file in (tmp_path / "none", tmp_path, "/proc/self/mem"):
        answer = CliRunner().invoke(group, ["redact", "test", str(file)])
        assert answer.exit_code == 2
        assert str(file) in answer.stderr


def test_a_large_file_is_looked_through_to_its_end() -> None:
    """In 4 MB on one line the one credential at the end is found, with its place."""
    answer = redact("test", "-", "--json", code=1, given=b"lorem ipsum " * 350_000 + PASSWORD.encode())
    (found,) = json.loads(answer.stdout)["findings"]
    assert (found["line"], found["column"]) == (1, 4_200_010)


def test_documents_name_what_they_are() -> None:
    """Both documents have a version and a type; counts and rules are there, credentials are not."""
    body = json.loads(redact("test", "-", "--json", code=1, given=PASSWORD.encode()).stdout)
    assert (body["version"], body["type"], body["counts"]) == (1, "redaction", {"named": 1})
    assert body["findings"] == [
        {"line": 1, "column": 10, "characters": 13, "rule": "named", "masked": "… (13 characters)"}
    ]
    rules = json.loads(redact("rules", "--json").stdout)
    assert (rules["version"], rules["type"], rules["hash"]) == (1, "redaction_rules", body["rules"])
    assert {"id": "jwt-any", "group": "secret", "gate": ["eyj"]} in rules["rules"]


@pytest.mark.parametrize("columns", ["40", "120"])
@pytest.mark.parametrize("arguments", [("test", "-"), ("rules",)])
def test_every_line_fits(monkeypatch: pytest.MonkeyPatch, columns: str, arguments: tuple[str, ...]) -> None:
    """Tables are as wide as the terminal at most, in plain text where it is none."""
    monkeypatch.setenv("COLUMNS", columns)
    text = f"{PASSWORD}\nkey {AWS_KEY}\n".encode()
    lines = redact(*arguments, code=int(arguments[0] == "test"), given=text).stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert not any("\x1b" in line for line in lines)
    assert {"aws-access-token", "jwt-any"} & set(" ".join(lines).split())


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AGL_REDACT_RULES", '[{"id": "x", "pattern": "("}]', "rule 'x': RE2 does not take its pattern: missing )"),
        ("AGL_REDACT_RULES", "/nowhere.json", "No such file or directory"),
        ("AGL_REDACT_OFF", "nonsense", "there is no rule nonsense; `agl redact rules` lists them"),
        ("AGL_REDACT_PII", "maybe", "there is no rule maybe"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """A rule or a name that makes no sense stops the dry run with the variable and the reason."""
    monkeypatch.setenv(variable, value)
    settings.forget()
    answer = CliRunner().invoke(group, ["redact", "test", "-"], input="x", standalone_mode=False)
    assert str(answer.exception).startswith(f"{variable}: ")
    assert message in str(answer.exception)


def test_rules_of_the_user_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule of one's own is applied and listed; one that is turned off, and PII, follow their settings."""
    monkeypatch.setenv("AGL_REDACT_RULES", '[{"id": "badge", "pattern": "EMP-[0-9]{6}", "gate": ["emp-"]}]')
    monkeypatch.setenv("AGL_REDACT_OFF", "named")
    monkeypatch.setenv("AGL_REDACT_PII", "1")
    text = f"EMP-123456 {PASSWORD} mail me@example.org".encode()
    counts = json.loads(redact("test", "-", "--json", code=1, given=text).stdout)["counts"]
    assert counts["badge"] == 1
    assert "named" not in counts
    assert any("mail" in rule for rule in counts)
    assert "badge" in redact("rules").stdout


def test_credentials_of_the_environment_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --environment the values of variables that mean a credential are found in the text, without it not."""
    monkeypatch.setenv("ACME_API_KEY", "qwzrtpsdfghjk")
    text = b"it is qwzrtpsdfghjk here"
    assert redact("test", "-", given=text).stdout.startswith("nothing")
    assert "environment" in redact("test", "-", "--environment", code=1, given=text).stdout
