"""The rows of a run, their document, and how two runs are compared.

A row is a ratio with its numerator and denominator. Rule of the comparison: a row has changed when its ratio moved by
more than 10 %, and by more than the noise of both runs together; the noise of a run is half of the distance between the
quartiles of its rounds. All else is ``within noise``.
"""

from __future__ import annotations

import statistics
from typing import Annotated, Literal, NamedTuple

import msgspec

from agentlightning.errors import SettingError

VERSION = 1
LEAST_CHANGE = 0.10
RULE = (
    f"better or worse: the ratio moved by more than {LEAST_CHANGE:.0%} and by more than the noise of both runs "
    "(half of the distance between the quartiles of the rounds)"
)

_NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class Row(msgspec.Struct, kw_only=True, frozen=True):
    """One figure of ours beside one of the peer's, both of the same run."""

    name: str
    what: str
    """What is measured, in words: ours / the peer's."""
    unit: str
    ours: _NotNegative
    """Numerator: median of the rounds."""
    peer: _NotNegative
    """Denominator: median of the rounds."""
    ratio: _NotNegative
    """Median of the rounds' ratios."""
    noise: _NotNegative
    """Half of the distance between the quartiles of the rounds' ratios."""
    rounds: int
    is_lower_better: bool


class Report(msgspec.Struct, kw_only=True, frozen=True):
    """A run; as JSON it is what ``agl bench --json`` prints and ``--compare`` reads."""

    version: int
    type: Literal["bench"]
    is_quick: bool
    taken_s: float
    machine: dict[str, str]
    rows: list[Row]


class Change(NamedTuple):
    """How a row compares with that of an earlier run."""

    name: str
    before: float
    now: float
    verdict: str
    """``better``, ``worse``, ``within noise``, or ``new``."""


class Kind(NamedTuple):
    """What a row is about."""

    name: str
    what: str
    unit: str
    is_lower_better: bool = True


def row_of(kind: Kind, ours: list[float], peer: list[float]) -> Row:
    """Return the row for the figures of each round; a peer of 0 makes its round's ratio 0."""
    ratios = [mine / theirs if theirs else 0.0 for mine, theirs in zip(ours, peer, strict=True)]
    return Row(
        name=kind.name,
        what=kind.what,
        unit=kind.unit,
        ours=_rounded(statistics.median(ours)),
        peer=_rounded(statistics.median(peer)),
        ratio=_rounded(statistics.median(ratios)),
        noise=_rounded(noise_of(ratios)),
        rounds=len(ratios),
        is_lower_better=kind.is_lower_better,
    )


def noise_of(ratios: list[float]) -> float:
    """Return half of the distance between the quartiles; 0 of fewer than three rounds, which tell nothing of it."""
    if len(ratios) < 3:  # noqa: PLR2004 - quartiles
        return 0.0
    first, _, third = statistics.quantiles(ratios, n=4)
    return (third - first) / 2


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def changes(before: Report, now: Report) -> list[Change]:
    """Compare every row of *now* with that of the same name."""
    known = {row.name: row for row in before.rows}
    return [_change(known.get(row.name), row) for row in now.rows]


def _change(before: Row | None, now: Row) -> Change:
    if before is None:
        return Change(now.name, 0.0, now.ratio, "new")
    moved = now.ratio - before.ratio
    is_noise = abs(moved) <= max(LEAST_CHANGE * abs(before.ratio), before.noise + now.noise)
    verdict = "within noise" if is_noise else "better" if (moved < 0) is now.is_lower_better else "worse"
    return Change(now.name, before.ratio, now.ratio, verdict)


class _Head(msgspec.Struct):
    """What every version of a result has."""

    version: int
    type: Literal["bench"]


def load(content: bytes, name: str) -> Report:
    """Return the report in *content*, which came from the file *name*.

    Raises:
        SettingError: It is none, or one of another version.
    """
    try:
        version = msgspec.json.decode(content, type=_Head).version
        if version != VERSION:
            msg = f"{name} has version {version}, this release reads {VERSION}; run 'agl bench --json' again"
            raise SettingError(msg)
        return msgspec.json.decode(content, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"{name} is no result of 'agl bench --json' ({error})"
        raise SettingError(msg) from None
