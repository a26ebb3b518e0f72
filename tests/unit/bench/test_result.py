"""How two results of agl bench are compared, and what a result is made of."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.cli.bench.result import VERSION, Kind, Report, Row, changes, load, noise_of, row_of
from agentlightning.errors import SettingError


def row(ratio: float, noise: float = 0.0, *, lower: bool = True, name: str = "span") -> Row:
    """Return a row with this ratio."""
    return Row(
        name=name, what="x", unit="us", ours=ratio, peer=1.0, ratio=ratio, noise=noise, rounds=5, is_lower_better=lower
    )


def report(*rows: Row) -> Report:
    """Return a report of these rows."""
    return Report(version=VERSION, type="bench", is_quick=False, taken_s=1.0, machine={"cpus": "2"}, rows=list(rows))


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (row(1.0), row(1.09), "within noise"),
        (row(1.0), row(1.2), "worse"),
        (row(1.0), row(0.8), "better"),
        (row(1.0, lower=False), row(1.2, lower=False), "better"),
        (row(1.0, lower=False), row(0.8, lower=False), "worse"),
        (row(1.0, 0.1), row(1.2, 0.15), "within noise"),
        (row(1.0, 0.05), row(1.2, 0.05), "worse"),
        (row(1.0, name="other"), row(1.2), "new"),
    ],
)
def test_a_row_has_changed_by_a_stated_rule(before: Row, now: Row, verdict: str) -> None:
    """More than 10 % and more than the noise of both runs is a change; its direction depends on the row."""
    (change,) = changes(report(before), report(now))
    assert change.verdict == verdict


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=9))
def test_a_result_is_no_change_against_itself(ours: list[float]) -> None:
    """Whatever was measured, a result compared with itself is within noise."""
    one = report(row_of(Kind("a", "b", "us"), ours, [1.0] * len(ours)))
    assert [change.verdict for change in changes(one, one)] == ["within noise"]


def test_a_row_is_a_ratio_of_rounds() -> None:
    """The ratio is the median of the rounds' ratios, not the ratio of the medians, and both figures are there."""
    made = row_of(Kind("a", "b", "us"), [1.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert (made.ours, made.peer, made.ratio, made.rounds) == (4.0, 2.0, 2.0, 3)
    assert made.noise == 1.0
    assert noise_of([1.0, 5.0]) == 0.0


def test_what_is_no_result_is_refused() -> None:
    """Other JSON, no JSON, and another version are one clear sentence."""
    with pytest.raises(SettingError, match=r"x\.json is no result of 'agl bench --json'"):
        load(b'{"a": 1}', "x.json")
    with pytest.raises(SettingError, match="is no result"):
        load(b"\xff", "x.json")
    for content in (
        b'{"version": 9, "type": "bench"}',
        msgspec.json.encode(msgspec.structs.replace(report(), version=9)),
    ):
        with pytest.raises(SettingError, match="has version 9"):
            load(content, "x.json")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"null", b'{"version": 1, "type": "doctor"}', b'{"version": 1, "type": "bench", "rows": []}',
        msgspec.json.encode(report(row(1.0)))[:-20],
        msgspec.json.encode(report(row(1.0))).replace(b'"ratio":1.0', b'"ratio":NaN'),
        msgspec.json.encode(report(row(1.0))).replace(b'"ratio":1.0', b'"ratio":-1.0'),
        msgspec.json.encode(report(row(1.0))).replace(b'"type":"bench"', b'"type":"doctor"'),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_result_is_refused(content: bytes) -> None:
    """A file that is cut, of another command, or with figures that cannot be, is one sentence with its name."""
    with pytest.raises(SettingError, match=r"x\.json is no result of 'agl bench --json'"):
        load(content, "x.json")
