"""The part of the store contract that is about following a store; see ``store_contract``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.change import BEGINNING
from agentlightning.types.record import AttemptEnd, RolloutStart, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentlightning.store.base import LightningStore
    from agentlightning.types.change import ChangeCursor, Changes

    Promise = Callable[[LightningStore], Awaitable[None]]


def start_of(store: LightningStore, number: int) -> RolloutStart:
    """Return the start of a rollout as the pipeline sends it."""
    ids = f"ro-follow-{number}", f"at-follow-{number}"
    start_ns = 1_700_000_000_000_000_000 + number
    return RolloutStart(rollout_id=ids[0], attempt_id=ids[1], project=store.project, start_ns=start_ns)


def seen(changes: Changes) -> list[tuple[str, bool]]:
    """Return name and whether it has ended for each span, sorted."""
    return sorted((span.name, span.end_ns is not None) for span in changes.spans)


async def changes_are_seen_once(store: LightningStore) -> None:
    """A follower sees each span when it is open and when it has ended, each rollout at its start and end, once."""
    start = start_of(store, 1)
    one, two = (record_of(start.rollout_id, start.attempt_id, number, end=False) for number in (1, 2))
    begin = (await store.query_changes(None)).cursor
    assert await _is_quiet(store, begin)
    store.write_batch(WriteBatch(starts=[start], spans=[one], project=store.project))
    first = await store.query_changes(begin)
    assert [rollout.rollout_id for rollout in first.rollouts] == [start.rollout_id]
    assert seen(first) == [("step 1", False)]
    assert await _is_quiet(store, first.cursor)
    one, two = (msgspec.structs.replace(span, end_ns=span.start_ns + 5) for span in (one, two))
    store.write_batch(WriteBatch(spans=[one, two], project=store.project))
    second = await store.query_changes(first.cursor)
    assert seen(second) == [("step 1", True), ("step 2", True)]
    end = AttemptEnd(rollout_id=start.rollout_id, attempt_id=start.attempt_id, status="succeeded", end_ns=one.start_ns)
    store.write_batch(WriteBatch(ends=[end], project=store.project))
    third = await store.query_changes(second.cursor)
    assert [(rollout.rollout_id, rollout.status) for rollout in third.rollouts] == [(start.rollout_id, "succeeded")]
    assert not third.spans
    assert await _is_quiet(store, third.cursor)


async def a_follower_may_begin_anywhere(store: LightningStore) -> None:
    """From the beginning everything is seen, in as many answers as it takes; from now on what is under way first."""
    start = start_of(store, 2)
    records = [record_of(start.rollout_id, start.attempt_id, number) for number in range(1, 4501)]
    await _write_old(store)
    store.write_batch(WriteBatch(starts=[start], spans=records, project=store.project))
    cursor, names = BEGINNING, set[str]()
    while not await _is_quiet(store, cursor):
        answer = await store.query_changes(cursor)
        fresh = {span.name for span in answer.spans}
        assert not fresh & names
        names |= fresh
        cursor = answer.cursor
    assert len(names) == 4500
    now = await store.query_changes(None)
    assert not [span for span in now.spans if span.end_ns is not None]


async def other_projects_are_not_followed(store: LightningStore) -> None:
    """A follower of a project sees nothing of another one."""
    other = store.with_project("other")
    begin = (await store.query_changes(None)).cursor
    start = start_of(other, 3)
    spans = [record_of(start.rollout_id, start.attempt_id, 1)]
    other.write_batch(WriteBatch(starts=[start], spans=spans, project="other"))
    answer = await store.query_changes(begin)
    assert (answer.spans, answer.rollouts) == ([], [])


async def a_follower_may_wait(store: LightningStore) -> None:
    """A follower that waits gets what happens soon after it happened, and an empty answer when nothing does."""
    cursor = (await store.query_changes(None)).cursor
    began = time.monotonic()
    assert not (await store.query_changes(cursor, wait_s=0.2)).spans
    assert 0.15 < time.monotonic() - began < 5
    start = start_of(store, 5)
    waiting = asyncio.create_task(store.query_changes(cursor, wait_s=20))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    batch = WriteBatch(starts=[start], spans=[record_of(start.rollout_id, start.attempt_id, 1)], project=store.project)
    await asyncio.to_thread(store.write_batch, batch)
    assert seen(await waiting) == [("step 1", True)]
    assert time.monotonic() - began < 5


async def places_of_deleted_spans_are_noticed(store: LightningStore) -> None:
    """A follower that was away misses nothing that was written after the newest rollouts were deleted."""
    first, second, third = (start_of(store, number) for number in (6, 7, 8))

    def written(start: RolloutStart, numbers: range) -> None:
        """Write spans with these numbers, as a pipeline does."""
        spans = [record_of(start.rollout_id, start.attempt_id, number) for number in numbers]
        store.write_batch(WriteBatch(starts=[start], spans=spans, project=store.project))

    written(first, range(1, 4))
    written(second, range(4, 9))
    away = (await store.query_changes(BEGINNING)).cursor
    await store.delete_rollouts([second.rollout_id])
    early = (await store.query_changes(away)).cursor
    written(third, range(9, 20))
    await store.delete_rollouts(["ro-none"])
    for cursor in (away, early):
        answer = await store.query_changes(cursor)
        assert seen(answer) == sorted((f"step {number}", True) for number in range(9, 20))
        assert [rollout.rollout_id for rollout in answer.rollouts] == [third.rollout_id]
        assert await _is_quiet(store, answer.cursor)


async def spans_are_found_by_key(store: LightningStore) -> None:
    """Spans come back in the order in which they were asked for, unknown ones not at all."""
    start = start_of(store, 4)
    records = [record_of(start.rollout_id, start.attempt_id, number) for number in (1, 2, 3)]
    store.write_batch(WriteBatch(starts=[start], spans=records, project=store.project))
    keys = [(record.trace_id, record.span_id) for record in reversed(records)]
    found = await store.query_spans_by_key([*keys, ("0" * 32, "0" * 16)])
    assert [(span.trace_id, span.span_id) for span in found] == keys
    assert await store.query_spans_by_key([]) == []


async def _is_quiet(store: LightningStore, cursor: ChangeCursor) -> bool:
    answer = await store.query_changes(cursor)
    return not answer.spans and not answer.rollouts


async def _write_old(store: LightningStore) -> None:
    rollout = await store.start_rollout("finished")
    await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")


FOLLOW_CONTRACT: list[Promise] = [
    changes_are_seen_once,
    a_follower_may_begin_anywhere,
    other_projects_are_not_followed,
    a_follower_may_wait,
    places_of_deleted_spans_are_noticed,
    spans_are_found_by_key,
]
"""The checks of this module."""
