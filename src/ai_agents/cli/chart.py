"""Bars of a session: in the terminal, as a page that needs nothing else, or as a picture where matplotlib is there."""

from __future__ import annotations

import html
import importlib
import warnings
from typing import TYPE_CHECKING, Any

from agentlightning import MissingExtraError
from agentlightning.cli.terminal import draws_lines, fit, safe, width
from ai_agents.telemetry.analysis import llm_calls, tool_uses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ai_agents.telemetry.types import TelemetrySession

Bars = list[tuple[str, float]]

_BAR_COLUMNS = 40
_LABEL_COLUMNS = 28
_FIGURE_COLUMNS = 12
_MOST_BARS = 25
"""Bars of one chart in a picture; the shorter ones are left out."""

_BAR_INCHES = 0.32


def charts(session: TelemetrySession) -> dict[str, Bars]:
    """Return the bars of *session* by title, the longest first."""
    seconds: dict[str, float] = {}
    for call in llm_calls(session):
        seconds[call.model] = seconds.get(call.model, 0.0) + call.duration
    for tool in tool_uses(session):
        seconds[tool.tool_name] = seconds.get(tool.tool_name, 0.0) + (tool.duration or 0.0)
    tokens = {model: float(usage.total_tokens) for model, usage in session.total_tokens.model_breakdown.items()}
    found = {"Seconds by model and tool": seconds, "Tokens by model": tokens}
    return {title: sorted(bars.items(), key=lambda bar: -bar[1]) for title, bars in found.items() if bars}


def in_terminal(title: str, bars: Sequence[tuple[str, float]]) -> Iterator[str]:
    """Yield the lines of a chart."""
    longest = max((value for _, value in bars), default=0.0) or 1.0
    sign = "█" if draws_lines() else "#"
    labels = min(_LABEL_COLUMNS, max(8, (width() - _FIGURE_COLUMNS) // 2))
    columns = max(4, min(_BAR_COLUMNS, width() - labels - _FIGURE_COLUMNS))
    yield title
    for label, value in bars:
        bar = sign * max(1 if value else 0, round(columns * value / longest))
        yield f"  {fit(safe(label), labels)} {bar} {_figure(value)}"


def write_chart(session: TelemetrySession, path: Path) -> None:
    """Write the charts of *session* to a ``.png`` (needs matplotlib) or a ``.html`` file.

    Raises:
        ValueError: Another kind of file; the message says which ones there are.
        MissingExtraError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    kind = path.suffix.lower()
    if kind == ".html":
        path.write_text(_page(session), encoding="utf-8")
    elif kind == ".png":
        _picture(session, path)
    else:
        msg = f"a chart is written to a .png or .html file, not to {path.name}"
        raise ValueError(msg)


def _page(session: TelemetrySession) -> str:
    parts = [f"<!doctype html><meta charset=utf-8><title>Session {html.escape(session.session_id)}</title>"]
    parts.append("<body style='font:14px sans-serif;max-width:60em;margin:2em auto'>")
    parts.append(f"<h1>Session {html.escape(session.session_id)}</h1>")
    for title, bars in charts(session).items():
        longest = max(value for _, value in bars) or 1.0
        parts.append(f"<h2>{html.escape(title)}</h2><table>")
        for label, value in bars:
            bar = f"<div style='background:#4a7;height:1em;width:{30 * value / longest:.2f}em'></div>"
            parts.append(f"<tr><td>{html.escape(label)}<td>{bar}<td>{_figure(value)}")
        parts.append("</table>")
    return "\n".join(parts) + "\n"


def _picture(session: TelemetrySession, path: Path) -> None:
    try:
        library: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        extra = "plot"
        raise MissingExtraError(extra, "a .png (unlike a .html)") from None
    found = {title: bars[:_MOST_BARS] for title, bars in charts(session).items()} or {"Nothing was recorded": []}
    heights = [0.7 + _BAR_INCHES * max(1, len(bars)) for bars in found.values()]
    figure = library.Figure(figsize=(9, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(f"Session {_plain(session.session_id)}", x=0.01, ha="left", fontsize=10, color="#555")
    places = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, bars) in zip(places, found.items(), strict=True):
        _draw(axes, title, bars)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a name in a script that no font here has
        figure.savefig(path, dpi=150)


def _draw(axes: Any, title: str, bars: Bars) -> None:  # noqa: ANN401 - of matplotlib
    """Draw one chart, the longest bar at the top, with its figure at each bar."""
    axes.set_title(title, loc="left", fontweight="bold")
    places = range(len(bars))
    drawn = axes.barh(places, [value for _, value in bars], color="#3b7ea1", height=0.7)
    axes.bar_label(drawn, [_figure(value) for _, value in bars], padding=4, fontsize=9)
    # By place: two names that are the same once cut are two bars.
    axes.set_yticks(places, [_plain(label) for label, _ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _plain(label: str) -> str:
    """Return a name as matplotlib shows it letter by letter: a dollar sign would begin a formula."""
    return fit(safe(label), _LABEL_COLUMNS + 12).strip().replace("$", r"\$")


def _figure(value: float) -> str:
    """Return a figure with as many digits as tell something."""
    return f"{value:.2g}" if 0 < value < 0.1 else f"{value:,.2f}".removesuffix(".00")  # noqa: PLR2004 - of seconds
