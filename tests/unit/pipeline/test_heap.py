"""The estimate of what records take of the heap."""

from __future__ import annotations

import random
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.pipeline.heap import heap_bytes
from agentlightning.pipeline.lane import Lane
from agentlightning.pipeline.ledger import Ledger
from agentlightning.pipeline.spill import Spill
from agentlightning.testing import RecordingStore
from agentlightning.types.record import EventRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.pipeline.conftest import MakeRecord

_draw = random.Random(1)


def _tokens(count: int) -> list[int]:
    return [_draw.randrange(1_000, 150_000) for _ in range(count)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"response_token_ids": _tokens(30_000)},
        lambda: {"logprobs": [_draw.random() for _ in range(30_000)]},
        lambda: {"text": "".join(_draw.choices("abcdef ", k=50_000))},
        lambda: {"texts": [f"{number} of these" for number in range(5_000)]},
        lambda: {"top": [[_draw.random() for _ in range(20)] for _ in range(1_000)]},
        lambda: {"top": [{"token": f"<{number}>", "logprob": _draw.random()} for number in range(2_000)]},
    ],
    ids=["tokens", "floats", "text", "texts", "lists", "dicts"],
)
@pytest.mark.parametrize("is_event", [False, True])
def test_the_estimate_is_near_the_truth(
    make_record: MakeRecord, make: Callable[[], dict[str, Any]], *, is_event: bool
) -> None:
    """What the values of a large span take is between half and twice of what is said."""
    make()
    tracemalloc.start()
    try:
        attributes = make()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    span = make_record(events=[EventRecord("e", 1, attributes)]) if is_event else make_record(attributes=attributes)
    assert taken / 2 < heap_bytes([span]) < 2 * taken


def test_a_list_of_numbers_is_not_walked(make_record: MakeRecord) -> None:
    """A thousand times as many numbers take about as long."""

    def seconds(count: int) -> float:
        spans = [make_record(attributes={"ids": [1_000] * count})] * 200
        began = time.thread_time()
        heap_bytes(spans)
        return time.thread_time() - began

    assert min(seconds(300_000) for _ in range(5)) < 10 * max(min(seconds(300) for _ in range(5)), 1e-5)


def test_lanes_and_the_spill_see_token_ids(make_record: MakeRecord, tmp_path: Path) -> None:
    """A hundred spans of 30,000 token ids are 100 MB, in memory before the disk as well as beside it."""
    batch = WriteBatch(spans=[make_record(attributes={"ids": [1_000] * 30_000}) for _ in range(100)])
    lane = Lane(RecordingStore(), Ledger(None))
    lane.put(batch, relieve=False)
    assert lane.bytes > 100e6
    spill = Spill(f"sqlite:///{tmp_path}/x.db", Ledger(None), "default")
    spill.put(batch, keep=True)
    assert spill.bytes > 100e6
