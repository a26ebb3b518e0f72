"""Records and parts of the pipeline, made the short way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.types.record import ResourceRecord, SpanRecord

MakeRecord = Callable[..., SpanRecord]

_RESOURCE = ResourceRecord({"service.name": "test"})
_numbers = itertools.count(1)


def make_record(**fields: Any) -> SpanRecord:
    """Return an ended span with a key of its own; *fields* replace the defaults."""
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "rollout_id": "ro-1",
        "attempt_id": "at-1",
        "counter": number,
        "trace_id": f"{1:032x}",
        "span_id": f"{number:016x}",
        "name": f"span {number}",
        "start_ns": 1_000,
        "end_ns": 2_000,
        "attributes": {},
        "resource": _RESOURCE,
    }
    return SpanRecord(**{**defaults, **fields})


@pytest.fixture(name="make_record")
def _make_record() -> MakeRecord:
    return make_record
