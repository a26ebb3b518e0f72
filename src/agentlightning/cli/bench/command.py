"""The command: run the suite, print it as a table or as JSON, and compare it with an earlier run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agentlightning.cli.bench import result, suite
from agentlightning.cli.bench.machine import described
from agentlightning.cli.terminal import fit, safe, style, width, wrapped, write

if TYPE_CHECKING:
    from collections.abc import Iterator

_NARROW = 90
_COLOURS = {"better": "green", "worse": "red"}


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds: under 10 s instead of under 60 s, and noisier.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, to keep for --compare.")
@click.option(
    "--compare",
    "earlier",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Say of each row whether it is better, worse or within noise of this earlier result; 1 when one is worse.",
)
def command(*, quick: bool, as_json: bool, earlier: Path | None) -> int:
    """Measure what tracing costs here, beside a plain OpenTelemetry batch processor in the same run.

    Everything happens in a temporary store; settings of yours play no part, and nothing is left behind.
    """
    before = result.load(earlier.read_bytes(), str(earlier)) if earlier else None
    report = suite.run(quick=quick, told=_tell if sys.stderr.isatty() else str)
    changes = result.changes(before, report) if before else []
    if as_json:
        body: dict[str, object] = msgspec.to_builtins(report)
        if before is not None:
            body["rule"] = result.RULE
            body["changes"] = [change._asdict() for change in changes]
        write(msgspec.json.encode(body).decode())
    else:
        verdicts = {change.name: change for change in changes}
        for line in _lines(report, before, verdicts):
            write(line)
    return 1 if any(change.verdict == "worse" for change in changes) else 0


def _tell(part: str) -> None:
    click.echo(f"agl: measuring {part} ...", err=True)


def _lines(report: result.Report, before: result.Report | None, verdicts: dict[str, result.Change]) -> Iterator[str]:
    yield from _fitted(described())
    for row in report.rows:
        yield from _row(row, verdicts.get(row.name))
    yield from _fitted(f"{report.taken_s:g} s. Ratio: ours divided by the peer's, median of the rounds.")
    if before is None:
        return
    yield from _fitted(f"Compared by this rule: {result.RULE}.")
    if before.machine != report.machine:
        told = ", ".join(f"{name} {value}" for name, value in before.machine.items())
        yield from _fitted(f"The earlier run was on another machine or other versions: {safe(told)}.")
    if before.is_quick or report.is_quick:
        yield from _fitted("A quick run is noisy; repeat without --quick what looks worse.")


def _row(row: result.Row, change: result.Change | None) -> Iterator[str]:
    better = "less" if row.is_lower_better else "more"
    pair = f"{_number(row.ours):>9} / {_number(row.peer):<9} {row.unit:<3}"
    figures = f"{pair} = {row.ratio:.3f} +-{row.noise:.3f} ({better} is better)"
    verdict = ""
    if change is not None:
        before = "" if change.verdict == "new" else f", before {change.before:.3f}"
        verdict = style(f"{change.verdict}{before}", fg=_COLOURS[change.verdict]) if change.verdict in _COLOURS else (
            f"{change.verdict}{before}"
        )  # fmt: skip
    if width() < _NARROW:
        yield style(row.name, bold=True)
        yield from _fitted(row.what)
        yield from _fitted(figures.strip())
        if verdict:
            yield verdict
        return
    yield f"{style(fit(row.name, 14), bold=True)} {figures}{'  ' + verdict if verdict else ''}"
    yield f"{'':14} {fit(row.what, max(20, width() - 15)).rstrip()}"


def _fitted(text: str) -> list[str]:
    return [line.strip() for line in wrapped(" ".join(text.split()), width())]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004 - four digits
