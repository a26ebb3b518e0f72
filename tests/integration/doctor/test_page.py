"""The page about agl doctor and its rows are the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.cli.doctor.reading import Reading
from agentlightning.cli.doctor.trouble import questions

if TYPE_CHECKING:
    from tests.integration.doctor.conftest import Doctor

PAGE = Path(__file__).parents[3] / "docs/doctor.md"
BY_CONDITION = {"buffer policy", "certificate", "spill checksums", "traced twice"} | {
    f"alert: {name}" for name in ("memory", "cpu", "latency", "errors", "tracing", "failure", "duration")
}
"""Rows that appear only where there is something to say."""


def test_every_question_and_row_is_on_the_page(doctor: Doctor) -> None:
    """Each question is a heading, in the same order; each row of the tables is one that the command has, and back."""
    text = PAGE.read_text("utf-8")
    asked = list(questions(Reading("sqlite:////nowhere.db", "default")))
    headings = [each for each in re.findall(r"^## (.*)$", text, re.MULTILINE) if each.endswith("?")]
    assert headings == [*(title for title, _ in asked), "Is what is stored whole?"]
    cells = [line.rstrip("| ").rpartition("|")[2] for line in text.splitlines() if line.startswith("| ")]
    named = {name for cell in cells for name in re.findall(r"`([a-z: ]+)`", cell)}
    assert named <= set(doctor()) | BY_CONDITION
    assert {row.what for _, rows in asked for row in rows} <= named
