"""Charts of a session: in the terminal, as a page, and as a picture."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from agentlightning import MissingExtraError
from ai_agents.cli.chart import charts, in_terminal, write_chart
from ai_agents.telemetry import TaskStatus, TelemetryCollector

if TYPE_CHECKING:
    from pathlib import Path

    from ai_agents.telemetry import TelemetrySession


@pytest.fixture
def session() -> TelemetrySession:
    """A session with names that are hard to draw."""
    collector = TelemetryCollector("s")
    collector.start_task("t", "")
    collector.record_llm_call(model="gpt-4o-mini", prompt_tokens=300, duration=3.0)
    collector.record_llm_call(model="$x^{2", prompt_tokens=100, duration=1.0)
    collector.record_tool_usage("<b>検索</b>\x1b[31m", 2.0)
    collector.end_task("t", TaskStatus.COMPLETED)
    return collector.finalize_session()


def test_bars_are_sorted_and_safe(session: TelemetrySession) -> None:
    """Bars are the longest first, their lengths are in proportion, and a name cannot drive the terminal."""
    found = charts(session)
    assert found["Seconds by model and tool"][0] == ("gpt-4o-mini", 3.0)
    assert found["Tokens by model"] == [("gpt-4o-mini", 300.0), ("$x^{2", 100.0)]
    lines = list(in_terminal("Title", found["Seconds by model and tool"]))
    bars = [line.count("█") + line.count("#") for line in lines[1:]]
    assert bars[0] == 3 * bars[2] + 1 == 40
    assert "\x1b" not in "".join(lines)


def test_page_escapes_names(session: TelemetrySession, tmp_path: Path) -> None:
    """A page shows names as text, and loads nothing."""
    write_chart(session, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;検索" in page
    assert "<b>" not in page
    assert "http" not in page


def test_picture_is_drawn(session: TelemetrySession, tmp_path: Path) -> None:
    """A picture has its bars, with names that would be formulas or have no glyph; one of nothing says so."""
    image = pytest.importorskip("matplotlib.image")
    write_chart(session, tmp_path / "a.png")
    drawn = image.imread(str(tmp_path / "a.png"))
    assert drawn.shape[1] == 9 * 150
    blue = (abs(drawn[:, :, 0] - 0.231) < 0.02) & (abs(drawn[:, :, 2] - 0.631) < 0.02)
    rows = blue.sum(axis=1)
    # Bars of 3 s, 2 s and 1 s, then of 300 and 100 tokens: the longest rows are three times the shortest ones.
    lengths = sorted({int(length) for length in rows if length > 50})
    assert lengths[-1] == pytest.approx(3 * lengths[0], rel=0.05)
    write_chart(TelemetryCollector("empty").finalize_session(), tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_picture_needs_its_extra(session: TelemetrySession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib the error has the command that installs it; a wrong kind of file names the right ones."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agentlightning\[plot\]'"):
        write_chart(session, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"\.png or \.html"):
        write_chart(session, tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())
