"""Any object can be emitted: what JSON holds as JSON, the rest as a bounded repr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections import OrderedDict, deque
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, SecretStr

from agentlightning.emitter import emit_object
from agentlightning.emitter.object import MAX_ITEMS, MAX_REPR_CHARS, json_text, object_attributes

if TYPE_CHECKING:
    from tests.unit.emitter.conftest import Recorded


def encoded(value: object) -> Any:
    """Return what the JSON text of *value* says, read by a parser that takes JSON only."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(str(object_attributes(value)["object"]), parse_constant=refuse)


class Level(IntEnum):
    HIGH = 3


class Shade(Enum):
    DARK = ("d", 1)


class Address(BaseModel):
    city: str
    hidden: str = Field(default="x", exclude=True)


class Person(BaseModel):
    name: str
    address: Address
    tags: set[int] = {2, 1}


@dataclasses.dataclass
class Point:
    x: float
    inner: Any = None


class Pair(NamedTuple):
    a: int
    b: tuple[int]


CASES: list[tuple[object, object]] = [
    (Person(name="n", address=Address(city="c")), {"name": "n", "address": {"city": "c"}, "tags": [1, 2]}),
    (RootModel[list[int]]([1]), [1]),
    (Point(1.0, Point(2.0)), {"x": 1.0, "inner": {"x": 2.0, "inner": None}}),
    (Level.HIGH, 3),
    (Shade.DARK, ["d", 1]),
    (datetime(2026, 1, 2, tzinfo=timezone.utc), "2026-01-02T00:00:00+00:00"),
    (timedelta(minutes=1), 60.0),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset("b"), ["b"]),
    (b"\xff", {"type": "bytes", "base64": "/w=="}),
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    (np.array([[0, 1], [2, 3]]), [[0, 1], [2, 3]]),
    (np.array([1, math.nan]), [1.0, "NaN"]),
    (np.array(7), 7),
    ([math.nan, math.inf, -math.inf], ["NaN", "Infinity", "-Infinity"]),
    (Pair(1, (2,)), [1, [2]]),
    (deque([1]), [1]),
    (OrderedDict([("a", 1)]), {"a": 1}),
    (MappingProxyType({"a": 1}), {"a": 1}),
    (Decimal("1.10"), "1.10"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (
        {1: "a", None: "b", False: "c", 1.5: "d", Level.HIGH: "e"},
        {"1": "a", "null": "b", "false": "c", "1.5": "d", "3": "e"},
    ),
    ({1: "a", "1": "b"}, {"1": "a", "1'": "b"}),
    ({(1, "x"): "a"}, {'[1, "x"]': "a"}),
    (None, None),
]
"""A value, and what its JSON text says."""


def test_object_is_a_span_with_json_text(recorded: Recorded) -> None:
    """An object is one span of the documented name with JSON text and the name of its class."""
    emit_object({"a": [1, None, "é"]})
    assert recorded.only.name == "agentlightning.object"
    assert recorded.attribute("object") == '{"a": [1, null, "é"]}'
    assert recorded.attribute("agentlightning.object.type") == "dict"


@pytest.mark.parametrize(("value", "expected"), CASES)
def test_what_has_a_form_in_json_is_written_in_it(
    value: object, expected: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Models, dataclasses, enums, dates, sets, bytes and numpy values have a documented form and cost no warning."""
    assert encoded(value) == expected
    assert caplog.records == []


class Foreign:
    def __repr__(self) -> str:
        return "<foreign>"


class Hostile:
    """Everything that can raise raises."""

    def __repr__(self) -> str:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        return 1


class HostileDict(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError


def test_what_json_cannot_hold_is_a_repr_with_its_type(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    """A foreign object is recorded as its repr, keeps what is around it, and is logged in the documented words."""
    emit_object({"kept": 1, "foreign": Foreign()})
    data = json.loads(str(recorded.attribute("object")))
    assert data["kept"] == 1
    assert data["foreign"]["repr"] == "<foreign>"
    assert data["foreign"]["type"].endswith("test_object.Foreign")
    assert "must be JSON serializable" in caplog.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Hostile(), "<repr failed: RuntimeError>"),
        (HostileDict(), "<HostileDict of 0>"),
        (SecretStr("sesame"), "SecretStr('**********')"),
        (len, "<built-in function len>"),
        (np.longdouble(1), repr(np.longdouble(1))),
        (np.zeros(MAX_ITEMS + 1, dtype=np.int8), f"<array of shape ({MAX_ITEMS + 1},), int8>"),
    ],
)
def test_objects_that_break_are_named(value: object, text: str) -> None:
    """An object whose own code raises, that hides its content, or that is too large is still recorded."""
    assert encoded(value)["repr"] == text


def test_a_repr_is_bounded() -> None:
    """A long repr is cut and says so."""

    class Long:
        def __repr__(self) -> str:
            return "x" * 1_000_000

    text = encoded(Long())["repr"]
    assert len(text) == MAX_REPR_CHARS
    assert text.endswith("…")


def test_an_endless_number_is_hexadecimal_text() -> None:
    """A number that Python refuses to write in decimal is recorded all the same."""
    assert encoded([10**5000])[0]["repr"].startswith("0x")


def test_cycles_end() -> None:
    """A container that holds itself is written once and named where it comes again."""
    cycle: list[object] = [1]
    cycle.append(cycle)
    assert encoded(cycle) == [1, {"type": "list", "repr": "<list of 2>"}]


def test_the_same_value_twice_is_no_cycle() -> None:
    """An object that is held twice is written twice."""
    shared = {"a": 1}
    assert encoded([shared, shared]) == [shared, shared]


@pytest.mark.parametrize("limit", [1000, 100_000])
def test_nesting_without_end_is_cut(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million nested lists cost neither the stack nor the span, whatever the recursion limit is."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, before))
    try:
        deep: object = "end"
        for _ in range(10**6):
            deep = [deep]
        text = str(object_attributes(deep)["object"])
    finally:
        sys.setrecursionlimit(before)
    assert text.startswith("[[[")
    assert "<list of 1>" in text


def test_a_small_object_that_unfolds_without_end_is_cut() -> None:
    """Lists that hold the same list twice, sixty levels deep, end at the bound and not with the memory."""
    bomb: list[object] = []
    for _ in range(60):
        bomb = [bomb, bomb]
    text = json_text(bomb, max_items=10_000)
    assert "more" in text
    assert len(text) < 100_000


def test_lone_surrogates_make_text_that_can_be_encoded() -> None:
    """Half a character is escaped, so that the text can be written to any store, and read back as it was."""
    text = str(object_attributes({"a": "\ud800é"})["object"])
    assert json.loads(text.encode()) == {"a": "\ud800é"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_json_comes_back_as_it_was(value: object) -> None:
    """What JSON can hold is read back equal."""
    assert encoded(value) == value


ANY = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.complex_numbers() | st.uuids(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.binary() | st.tuples(st.text()), inner)
        | st.builds(Point, st.floats(), inner)
    ),
)


@given(ANY)
def test_anything_becomes_json(value: object) -> None:
    """Whatever is emitted, its text is JSON that any parser takes and any store can encode."""
    encoded(value)
    str(object_attributes(value)["object"]).encode()
