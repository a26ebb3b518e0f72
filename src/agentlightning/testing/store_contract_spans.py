"""The part of the store contract that is about spans; see ``store_contract``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from agentlightning._internal.ids import implicit_ids, new_rollout_id, new_span_id, new_trace_id
from agentlightning.errors import UnknownIdError
from agentlightning.types.record import (
    AttemptEnd,
    EventRecord,
    LinkRecord,
    ResourceRecord,
    RolloutStart,
    SpanRecord,
    WriteBatch,
)
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentlightning.store.base import LightningStore

    Promise = Callable[[LightningStore], Awaitable[None]]

_ATTRIBUTES = {
    "text": "a\u0000\U0001f600\n'\"",
    "number": 2**53 + 1,
    "huge": 2**70,
    "half": 0.1,
    "yes": True,
    "nan": [math.inf, -math.inf],
    "prompt_token_ids": list(range(0, 150_000, 1_000)),
    "logprobs": [-0.1 * number for number in range(64)],
    "texts": ["a", ""],
}


def record_of(rollout_id: str, attempt_id: str, counter: int, *, end: bool = True, **given: object) -> SpanRecord:
    """Return a record of the pipeline."""
    record = SpanRecord(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        counter=counter,
        trace_id=f"{new_trace_id():032x}",
        span_id=f"{new_span_id():016x}",
        name=f"step {counter}",
        start_ns=1_700_000_000_000_000_000 + counter,
        end_ns=1_700_000_001_000_000_000 + counter if end else None,
        resource=ResourceRecord({"service.name": "test"}),
        process="host/1/2",
    )
    return msgspec.structs.replace(record, **given)


async def key_rule_holds(store: LightningStore) -> None:
    """Absent is inserted, open is replaced by its end, ended is never changed; open ones are read only when asked."""
    rollout = await store.start_rollout("task")
    ids = rollout.rollout_id, rollout.attempt.attempt_id
    opened = record_of(*ids, 0, end=False)
    assert store.write_batch(WriteBatch(spans=[opened])).stored == 0
    assert await store.query_spans(rollout.rollout_id) == []
    (note,) = await store.query_spans(rollout.rollout_id, include_open=True)
    assert (note.sequence_id, note.end_time) == (0, None)
    ended = msgspec.structs.replace(opened, end_ns=opened.start_ns + 5, name="ended", counter=1)
    again = msgspec.structs.replace(ended, name="changed")
    assert store.write_batch(WriteBatch(spans=[ended])).stored == 1
    result = store.write_batch(WriteBatch(spans=[again, opened]))
    assert (result.stored, result.duplicate) == (0, 1)
    (span,) = await store.query_spans(rollout.rollout_id)
    assert (span.name, span.sequence_id) == ("ended", 1)
    kept = await store.add_span(Span.from_record(again, 7))
    assert (kept.name, kept.sequence_id) == ("ended", 1)


async def nothing_is_lost_in_a_span(store: LightningStore) -> None:
    """Every field of a span and every value of an attribute comes back as it went in."""
    rollout = await store.start_rollout("task")
    record = record_of(
        rollout.rollout_id,
        rollout.attempt.attempt_id,
        1,
        kind="CLIENT",
        parent_id="00000000000000aa",
        status_code="ERROR",
        status_description="no",
        attributes=dict(_ATTRIBUTES),
        events=[EventRecord("event", 1_700_000_000_000_000_001, {"n": 1})],
        links=[LinkRecord("0" * 31 + "1", "0" * 15 + "2", {"l": "x"}, "a=b")],
        scope_name="scope",
        scope_version="1",
        trace_state="k=v",
    )
    store.write_batch(WriteBatch(spans=[record]))
    (span,) = await store.query_spans(rollout.rollout_id, "latest")
    expected = msgspec.structs.replace(record, attributes=record.attributes | {"huge": str(2**70)})
    got = msgspec.structs.replace(span.to_record(), counter=1)
    assert msgspec.structs.asdict(got)["attributes"] in (record.attributes, expected.attributes)
    assert (got.events, got.links, got.trace_state) == (record.events, record.links, record.trace_state)
    assert (got.start_ns, got.end_ns, got.kind, got.parent_id) == (
        record.start_ns,
        record.end_ns,
        "CLIENT",
        "00000000000000aa",
    )
    assert (got.status_code, got.status_description, got.scope_name) == ("ERROR", "no", "scope")
    assert got.resource.attributes == {"service.name": "test"}


async def numbers_only_go_up(store: LightningStore) -> None:
    """Sequence numbers are given once, over all attempts; a span keeps its own number and raises the counter."""
    rollout = await store.start_rollout("task")
    ids = rollout.rollout_id, rollout.attempt.attempt_id
    assert [await store.get_next_span_sequence_id(*ids) for _ in range(2)] == [1, 2]
    spans = await store.add_spans([Span.from_record(record_of(*ids, n), n) for n in (9, 2)])
    assert [span.sequence_id for span in spans] == [9, 2]
    assert (await store.add_span(Span.from_record(record_of(*ids, 0), 0))).sequence_id == 10
    again = await store.start_attempt(rollout.rollout_id)
    assert await store.get_next_span_sequence_id(rollout.rollout_id, again.attempt.attempt_id) == 11
    assert [span.sequence_id for span in await store.query_spans(rollout.rollout_id)] == [2, 9, 10]


async def order_is_that_of_hand_over(store: LightningStore) -> None:
    """A batch is numbered by the counter of its spans, whatever their place in it."""
    rollout = await store.start_rollout("task")
    ids = rollout.rollout_id, rollout.attempt.attempt_id
    store.write_batch(WriteBatch(spans=[record_of(*ids, 3), record_of(*ids, 1), record_of(*ids, 2)]))
    assert [span.name for span in await store.query_spans(rollout.rollout_id)] == ["step 1", "step 2", "step 3"]
    rows = await store.query_span_rows(rollout.rollout_id, "latest")
    assert [(row.name, row.sequence_id) for row in rows] == [("step 1", 1), ("step 2", 2), ("step 3", 3)]


async def batch_brings_rollout_spans_and_end(store: LightningStore) -> None:
    """A batch creates its rollout, stores the spans and ends the attempt at once; sent again it changes nothing."""
    rollout_id, attempt_id = new_rollout_id(), "at-" + new_rollout_id()[3:]
    start = RolloutStart(rollout_id=rollout_id, attempt_id=attempt_id, project=store.project, input="task", start_ns=5)
    end = AttemptEnd(rollout_id=rollout_id, attempt_id=attempt_id, status="succeeded", end_ns=9, metadata={"code": 0})
    spans = [record_of(rollout_id, attempt_id, number) for number in (1, 2)]
    batch = WriteBatch(starts=[start], spans=spans, ends=[end])
    assert store.write_batch(batch).stored == 2
    assert store.write_batch(batch).duplicate == 2
    rollout = await store.get_rollout_by_id(rollout_id)
    assert rollout is not None
    assert (rollout.status, rollout.input, rollout.end_time) == ("succeeded", "task", 9e-9)
    attempt = await store.get_latest_attempt(rollout_id)
    assert attempt is not None
    assert (attempt.status, attempt.metadata) == ("succeeded", {"code": 0})


async def batch_may_bring_a_whole_rollout(store: LightningStore) -> None:
    """A batch with several attempts of a rollout keeps their ids, numbers, ends and spans, and queues nothing."""
    rollout_id = new_rollout_id()
    attempts = [f"at-{number}{rollout_id[3:]}" for number in (1, 2)]
    batch = WriteBatch(
        starts=[
            RolloutStart(
                rollout_id=rollout_id, attempt_id=attempt_id, project=store.project, start_ns=5 + number, number=number
            )
            for number, attempt_id in enumerate(attempts, 1)
        ],
        spans=[record_of(rollout_id, attempt_id, 1) for attempt_id in attempts],
        ends=[
            AttemptEnd(rollout_id=rollout_id, attempt_id=attempt_id, status=status, end_ns=9)
            for attempt_id, status in zip(attempts, ("failed", "succeeded"), strict=True)
        ],
    )
    for _ in range(2):
        store.write_batch(batch)
        found = await store.query_attempts(rollout_id)
        assert [(attempt.attempt_id, attempt.sequence_id, attempt.status) for attempt in found] == [
            (attempts[0], 1, "failed"),
            (attempts[1], 2, "succeeded"),
        ]
        rollout = await store.get_rollout_by_id(rollout_id)
        assert rollout is not None
        assert rollout.status == "succeeded"
    assert [len(await store.query_spans(rollout_id, attempt_id)) for attempt_id in attempts] == [1, 1]
    assert await store.dequeue_rollout() is None


async def foreign_spans_make_an_implicit_rollout(store: LightningStore) -> None:
    """Spans of a rollout that nobody announced are kept; the announcement may follow, and the trace can be found."""
    trace_id = f"{new_trace_id():032x}"
    rollout_id, attempt_id = implicit_ids(trace_id)
    store.write_batch(WriteBatch(spans=[record_of(rollout_id, attempt_id, 1, trace_id=trace_id)], project="p"))
    handle = store.with_project("p")
    assert [rollout.rollout_id for rollout in await handle.query_rollouts(status=["running"])] == [rollout_id]
    assert await store.find_attempt_of_trace(trace_id) == (rollout_id, attempt_id)
    assert await store.find_attempt_of_trace("0" * 32) is None
    start = RolloutStart(rollout_id=rollout_id, attempt_id=attempt_id, project="p", input="real", start_ns=5)
    store.write_batch(WriteBatch(starts=[start]))
    rollout = await store.get_rollout_by_id(rollout_id)
    assert rollout is not None
    assert rollout.input == "real"
    assert len(await store.query_spans(rollout_id)) == 1


async def spans_of_unknown_attempts_are_refused(store: LightningStore) -> None:
    """``add_span`` wants a known rollout and attempt, and of a list with a wrong one nothing is stored."""
    rollout = await store.start_rollout("task")
    good = Span.from_record(record_of(rollout.rollout_id, rollout.attempt.attempt_id, 1), 0)
    bad = Span.from_record(record_of(rollout.rollout_id, "at-none", 1), 0)
    for spans in ([bad], [good, bad]):
        raised: Exception | None = None
        try:
            await store.add_spans(spans)
        except UnknownIdError as error:
            raised = error
        assert isinstance(raised, ValueError), "a span of an unknown attempt was taken"
    assert await store.query_spans(rollout.rollout_id) == []
    assert await store.add_spans([]) == []


SPAN_CONTRACT: list[Promise] = [
    key_rule_holds,
    nothing_is_lost_in_a_span,
    numbers_only_go_up,
    order_is_that_of_hand_over,
    batch_brings_rollout_spans_and_end,
    batch_may_bring_a_whole_rollout,
    foreign_spans_make_an_implicit_rollout,
    spans_of_unknown_attempts_are_refused,
]
