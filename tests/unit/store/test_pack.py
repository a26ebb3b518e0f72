"""Attributes on disk: exact, and small where there are many numbers."""

from __future__ import annotations

import math
import random
from array import array
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.pack import dump_attributes, load_attributes

FLOAT32 = st.floats(width=32, allow_nan=False)
DECIMAL = st.decimals(-50, 0, places=7).map(float)
LISTS = (
    st.lists(st.integers(0, 2**32 + 5), min_size=32, max_size=40)
    | st.lists(st.integers(-(2**63), 2**64 - 1), min_size=32, max_size=40)
    | st.lists(FLOAT32, min_size=32, max_size=40)
    | st.lists(DECIMAL, min_size=32, max_size=40)
    | st.lists(st.floats(allow_nan=False), min_size=1, max_size=40)
    | st.lists(st.integers(0, 9) | st.floats(0, 1) | st.booleans(), min_size=32, max_size=40)
    | st.lists(st.text(), max_size=5)
)


def items(value: Any) -> list[Any]:
    """Return the items of a list, none of anything else."""
    return cast("list[Any]", value) if isinstance(value, list) else []


@given(st.dictionaries(st.text(max_size=5), LISTS | st.text() | st.booleans() | st.binary(max_size=9), max_size=4))
def test_every_value_comes_back_the_same(attributes: dict[str, Any]) -> None:
    """Values and their types survive, whatever mixture of numbers a list holds."""
    found = load_attributes(*dump_attributes(attributes))
    assert found == attributes
    for key, value in attributes.items():
        assert [type(item) for item in items(found[key])] == [type(item) for item in items(value)]


def test_what_is_no_number_survives_too() -> None:
    """NaN, infinities, negative zero and integers beyond 64 bit do not disturb the rest."""
    odd = {"nan": [math.nan] * 40, "inf": [-math.inf] * 40, "zero": [-0.0] * 40, "huge": [2**70] * 40, "ids": [1] * 40}
    found = load_attributes(*dump_attributes(odd))
    assert all(math.isnan(value) for value in found["nan"])
    assert found["inf"] == odd["inf"]
    assert math.copysign(1, found["zero"][0]) == -1
    assert found["huge"] == [str(2**70)] * 40
    assert found["ids"] == [1] * 40


def test_the_first_format_can_still_be_read() -> None:
    """What the first release packed is read."""
    import zlib

    blob = b"\x01" + zlib.compress(msgspec.msgpack.encode({"ids": [1, 2, 3]}))
    assert load_attributes('{"a":1}', blob) == {"a": 1, "ids": [1, 2, 3]}
    with pytest.raises(ValueError, match="unknown format"):
        load_attributes("{}", b"\x09abc")
    with pytest.raises(ValueError, match="damaged"):
        load_attributes("{}", b"\x02abc")


@pytest.mark.parametrize("printed", ["as 64-bit", "as the shortest decimal"])
def test_a_call_with_32k_tokens_is_small(printed: str) -> None:
    """32k prompt ids, 8k response ids with 32-bit log-probabilities: at most 200 KB, however random they are."""
    chance = random.Random(3)
    words = array("f", [-chance.expovariate(2.5) for _ in range(8192)])
    exact = words.tolist()
    shortest = [
        next(float(f"{v:.{p}g}") for p in range(1, 10) if array("f", [float(f"{v:.{p}g}")])[0] == v) for v in exact
    ]
    call = {
        "prompt_token_ids": [chance.randrange(150_000) for _ in range(32_768)],
        "response_token_ids": [chance.randrange(150_000) for _ in range(8_192)],
        "logprobs.content": exact if printed == "as 64-bit" else shortest,
    }
    text, blob = dump_attributes(call)
    assert blob is not None
    print(f"\n{printed}: {(len(text) + len(blob)) / 1e3:.0f} KB")
    assert len(text) + len(blob) <= 200_000
    assert load_attributes(text, blob) == call
