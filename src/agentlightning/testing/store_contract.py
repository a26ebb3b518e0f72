"""The contract of ``LightningStore`` as a list of checks that every backend must pass.

Each check is a coroutine function that takes an empty store and fails with ``AssertionError`` when the store breaks
the promise that its docstring names. With pytest::

    @pytest.mark.parametrize("promise", STORE_CONTRACT, ids=lambda promise: promise.__name__)
    async def test_store(promise, store):
        await promise(store)
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from agentlightning._internal.ids import new_span_id, new_trace_id
from agentlightning.errors import AccessError, StaleAttemptError, TransitionError, UnknownIdError
from agentlightning.testing.store_contract_follow import FOLLOW_CONTRACT
from agentlightning.testing.store_contract_spans import SPAN_CONTRACT
from agentlightning.types.core import RolloutConfig
from agentlightning.types.query import RolloutFilter
from agentlightning.types.resources import LLM, PromptTemplate
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import AttemptedRollout, AttemptStatus

    Promise = Callable[[LightningStore], Awaitable[None]]

RETRIED = RolloutConfig(max_attempts=2, retry_condition=["failed", "timeout", "unresponsive"])


async def refused(kind: type[Exception], call: Awaitable[Any]) -> None:
    """Make sure that *call* raises an error of *kind* that is also a ``ValueError``."""
    raised: Exception | None = None
    try:
        await call
    except kind as error:
        raised = error
    assert isinstance(raised, ValueError), f"instead of {kind.__name__} there was {raised!r}"


async def claimed(store: LightningStore, config: RolloutConfig | None = None) -> AttemptedRollout:
    """Enqueue a rollout and claim it."""
    await store.enqueue_rollout("task", config=config)
    rollout = await store.dequeue_rollout()
    assert rollout is not None
    return rollout


def span_of(rollout: AttemptedRollout, sequence_id: int = 0) -> Span:
    """Return a new ended span of an attempt."""
    return Span.from_attributes(
        attributes={"a": 1},
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        sequence_id=sequence_id,
        trace_id=f"{new_trace_id():032x}",
        span_id=f"{new_span_id():016x}",
        name="work",
    )


async def status_of(store: LightningStore, rollout_id: str) -> str:
    """Return the status of a rollout."""
    rollout = await store.get_rollout_by_id(rollout_id)
    assert rollout is not None
    return rollout.status


async def start_rollout_is_never_queued(store: LightningStore) -> None:
    """A started rollout is preparing with attempt 1, takes the latest resources, and nobody can claim it."""
    resources = await store.add_resources({"prompt": PromptTemplate(template="hi", engine="f-string")})
    started = await store.start_rollout({"question": 1}, "train", metadata={"k": "v"})
    assert (started.status, started.attempt.status, started.attempt.sequence_id) == ("preparing", "preparing", 1)
    assert started.rollout_id.startswith("ro-")
    assert started.attempt.attempt_id.startswith("at-")
    assert (started.resources_id, started.mode, started.metadata) == (resources.resources_id, "train", {"k": "v"})
    assert await store.dequeue_rollout() is None
    assert await store.query_attempts(started.rollout_id) == [started.attempt]


async def queue_is_first_in_first_out(store: LightningStore) -> None:
    """Rollouts are claimed in the order in which they were queued, one at a time or many; an empty queue gives None."""
    ids = [(await store.enqueue_rollout(number)).rollout_id for number in range(3)]
    ids += [rollout.rollout_id for rollout in await store.enqueue_rollouts([3, 4, 5], "val")]
    taken = [await store.dequeue_rollout() for _ in ids]
    assert [rollout and rollout.rollout_id for rollout in taken] == ids
    assert [rollout and rollout.input for rollout in taken] == list(range(6))
    assert all(rollout and rollout.attempt.sequence_id == 1 and rollout.status == "preparing" for rollout in taken)
    assert await store.dequeue_rollout() is None


async def no_two_workers_get_the_same_rollout(store: LightningStore) -> None:
    """Claims at the same time never give one rollout twice."""
    queued = await store.enqueue_rollouts(list(range(20)))
    taken = await asyncio.gather(*(store.dequeue_rollout(worker_id=f"w{number}") for number in range(25)))
    ids = [rollout.rollout_id for rollout in taken if rollout is not None]
    assert sorted(ids) == sorted(rollout.rollout_id for rollout in queued)


async def spans_and_status_move_the_rollout(store: LightningStore) -> None:
    """The first span makes attempt and rollout running; a final status ends both and sets their end."""
    rollout = await claimed(store)
    await store.add_span(span_of(rollout))
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert (attempt.status, await status_of(store, rollout.rollout_id)) == ("running", "running")
    assert attempt.last_heartbeat_time is not None
    ended = await store.update_attempt(rollout.rollout_id, "latest", status="succeeded", worker_id="w")
    assert (ended.status, ended.worker_id, ended.end_time is not None) == ("succeeded", "w", True)
    finished = await store.get_rollout_by_id(rollout.rollout_id)
    assert finished is not None
    assert (finished.status, finished.end_time is not None) == ("succeeded", True)
    await store.add_span(span_of(rollout))
    assert await status_of(store, rollout.rollout_id) == "succeeded"


async def failure_is_tried_again_as_configured(store: LightningStore) -> None:
    """A failed attempt queues its rollout again while attempts are left, and then fails it."""
    rollout = await claimed(store, config=RETRIED)
    await store.update_attempt(rollout.rollout_id, "latest", status="failed")
    assert await status_of(store, rollout.rollout_id) == "requeuing"
    again = await store.dequeue_rollout()
    assert again is not None
    assert (again.rollout_id, again.attempt.sequence_id) == (rollout.rollout_id, 2)
    await store.update_attempt(rollout.rollout_id, "latest", status="failed")
    assert await status_of(store, rollout.rollout_id) == "failed"
    assert await store.dequeue_rollout() is None


async def late_worker_is_refused_and_its_spans_are_kept(store: LightningStore) -> None:
    """Once a later attempt exists, an earlier one changes no status; its spans are still stored as its own."""
    first = await claimed(store, config=RETRIED)
    await store.update_attempt(first.rollout_id, "latest", status="unresponsive")
    second = await store.dequeue_rollout()
    assert second is not None
    await refused(
        StaleAttemptError, store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded")
    )
    await refused(StaleAttemptError, store.heartbeat(first.rollout_id, first.attempt.attempt_id))
    await store.add_span(span_of(first))
    attempts = await store.query_attempts(first.rollout_id)
    assert [attempt.status for attempt in attempts] == ["unresponsive", "preparing"]
    assert await status_of(store, first.rollout_id) == "preparing"
    assert len(await store.query_spans(first.rollout_id, first.attempt.attempt_id)) == 1
    assert await store.query_spans(first.rollout_id, "latest") == []


async def what_is_over_stays(store: LightningStore) -> None:
    """An attempt that is over and a rollout that is finished take no other status, but the same one again."""
    rollout = await claimed(store)
    ended = await store.update_attempt(rollout.rollout_id, "latest", status="failed")
    assert await store.update_attempt(rollout.rollout_id, "latest", status="failed") == ended
    await refused(TransitionError, store.update_attempt(rollout.rollout_id, "latest", status="succeeded"))
    await refused(TransitionError, store.update_rollout(rollout.rollout_id, status="running"))
    assert await status_of(store, rollout.rollout_id) == "failed"


async def cancelled_rollout_stays_cancelled(store: LightningStore) -> None:
    """A worker that ends its attempt after the rollout was cancelled does not bring it back."""
    rollout = await claimed(store)
    await store.update_rollout(rollout.rollout_id, status="cancelled")
    await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
    assert await status_of(store, rollout.rollout_id) == "cancelled"


async def revived_attempt_leaves_the_queue(store: LightningStore) -> None:
    """A span of an unresponsive attempt makes it run again and takes the rollout out of the queue."""
    rollout = await claimed(store, config=RETRIED)
    await store.update_attempt(rollout.rollout_id, "latest", status="unresponsive")
    assert await status_of(store, rollout.rollout_id) == "requeuing"
    await store.add_span(span_of(rollout))
    assert await status_of(store, rollout.rollout_id) == "running"
    assert await store.dequeue_rollout() is None


async def start_attempt_ignores_the_bound(store: LightningStore) -> None:
    """A further attempt can be had at any time; it takes a queued rollout out of the queue."""
    queued = await store.enqueue_rollout("task")
    first = await store.start_attempt(queued.rollout_id)
    second = await store.start_attempt(queued.rollout_id)
    assert (first.attempt.sequence_id, second.attempt.sequence_id, second.status) == (1, 2, "preparing")
    assert await store.dequeue_rollout() is None


async def update_rollout_knows_none_from_unset(store: LightningStore) -> None:
    """Only what is given changes, None is a value, and a queueing status queues exactly once."""
    rollout = await store.enqueue_rollout({"n": 1}, "train", metadata={"a": 1})
    changed = await store.update_rollout(rollout.rollout_id, mode=None, status="requeuing")
    assert (changed.mode, changed.metadata, changed.input, changed.status) == (None, {"a": 1}, {"n": 1}, "requeuing")
    assert (await store.update_rollout(rollout.rollout_id, metadata=None, input=None)).metadata is None
    assert await store.dequeue_rollout() is not None
    assert await store.dequeue_rollout() is None
    finished = await store.update_rollout(rollout.rollout_id, status="cancelled")
    assert finished.end_time is not None
    assert (await store.update_rollout(rollout.rollout_id, status="queuing")).end_time is None
    assert await store.dequeue_rollout() is not None


async def silence_ends_the_lease(store: LightningStore) -> None:
    """A claim that is not renewed is unresponsive when its lease is over; a heartbeat renews it."""
    kept = await claimed(store, config=RETRIED)
    await store.enqueue_rollout("lost", config=RETRIED)
    lost = await store.dequeue_rollout(lease_s=0.2)
    assert lost is not None
    assert (await store.heartbeat(kept.rollout_id, "latest")).status == "running"
    again = await _claim_within(store, 5.0)
    assert (again.rollout_id, again.attempt.sequence_id) == (lost.rollout_id, 2)
    assert [attempt.status for attempt in await store.query_attempts(lost.rollout_id)] == ["unresponsive", "preparing"]


async def timeout_and_silence_are_noticed(store: LightningStore) -> None:
    """Before reads, attempts that take too long time out and silent ones become unresponsive."""
    cases: list[tuple[RolloutConfig, AttemptStatus]] = [
        (RolloutConfig(timeout_seconds=0.05), "timeout"),
        (RolloutConfig(unresponsive_seconds=0.05), "unresponsive"),
    ]
    for config, status in cases:
        rollout = await claimed(store, config=config)
        await asyncio.sleep(0.06)  # the limit is a time: nothing tells that it has passed
        attempt = await store.get_latest_attempt(rollout.rollout_id)
        assert attempt is not None
        assert (attempt.status, await status_of(store, rollout.rollout_id)) == (status, "failed")


async def waiting_ends_when_all_are_finished(store: LightningStore) -> None:
    """Waiters wake at the last end, ignore unknown ids, and with a timeout of 0 do not wait."""
    one, two = [await claimed(store) for _ in range(2)]
    ids = [two.rollout_id, one.rollout_id, "ro-unknown"]
    assert await store.wait_for_rollouts(rollout_ids=ids, timeout=0) == []
    assert await store.wait_for_rollouts(rollout_ids=["ro-unknown"]) == []
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=ids, timeout=10))
    await store.update_attempt(one.rollout_id, "latest", status="succeeded")
    await store.update_rollout(two.rollout_id, status="cancelled")
    started = time.monotonic()
    done = await waiting
    assert [(rollout.rollout_id, rollout.status) for rollout in done] == [
        (two.rollout_id, "cancelled"),
        (one.rollout_id, "succeeded"),
    ]
    assert time.monotonic() - started < 5


async def rollouts_are_found_by_what_they_are(store: LightningStore) -> None:
    """Queries filter by status, id, mode, time, metadata and text, and give one page after the other."""
    first = await store.enqueue_rollout({"q": "What is 100% of O'Brien?"}, "train", metadata={"epoch": 1, "tag": "a"})
    second = await store.enqueue_rollout("größe", "val", metadata={"epoch": 2, "tag": "a"})
    third = await store.start_rollout("x_y")
    ids = [first.rollout_id, second.rollout_id, third.rollout_id]

    async def found(where: RolloutFilter) -> list[int]:
        """Return which of the rollouts, by their place, the filter lets through."""
        return [ids.index(rollout.rollout_id) for rollout in await store.query_rollouts(where=where)]

    assert await found(RolloutFilter()) == [0, 1, 2]
    assert await found(RolloutFilter(newest_first=True, limit=2)) == [2, 1]
    assert await found(RolloutFilter(limit=1, offset=1)) == [1]
    assert await found(RolloutFilter(modes=["val"])) == [1]
    assert await found(RolloutFilter(metadata={"tag": "a", "epoch": 1})) == [0]
    assert await found(RolloutFilter(metadata={"epoch": "1"})) == []
    assert await found(RolloutFilter(text="100% of o'b")) == [0]
    assert await found(RolloutFilter(text="größe")) == [1]
    assert await found(RolloutFilter(text="_")) == [2]
    between = [(one.start_time + two.start_time) / 2 for one, two in ((first, second), (second, third))]
    assert await found(RolloutFilter(start_after=between[0], start_before=between[1])) == [1]
    assert [r.rollout_id for r in await store.query_rollouts(status=["preparing"])] == [third.rollout_id]
    assert [r.rollout_id for r in await store.query_rollouts(rollout_ids=[second.rollout_id, "?"])] == [ids[1]]
    assert [r.rollout_id for r in await store.query_newest_rollouts(limit=2)] == [ids[2], ids[1]]
    assert await store.find_rollout_id("latest") == third.rollout_id
    assert await store.find_rollout_id(second.rollout_id[:-1]) == second.rollout_id
    await refused(UnknownIdError, store.find_rollout_id("nothing"))


async def unknown_ids_are_told(store: LightningStore) -> None:
    """What names an unknown rollout, attempt or resources is an error that is also a ValueError, or None when read."""
    rollout = await store.start_rollout("task")
    await refused(UnknownIdError, store.update_rollout("ro-none", status="running"))
    await refused(UnknownIdError, store.update_attempt("ro-none", "latest", status="running"))
    await refused(UnknownIdError, store.update_attempt(rollout.rollout_id, "at-none", status="running"))
    await refused(UnknownIdError, store.heartbeat(rollout.rollout_id, "at-none"))
    await refused(UnknownIdError, store.start_attempt("ro-none"))
    await refused(UnknownIdError, store.update_resources("rs-none", {}))
    await refused(UnknownIdError, store.get_next_span_sequence_id("ro-none", "at-none"))
    assert await store.get_rollout_by_id("ro-none") is None
    assert await store.get_latest_attempt("ro-none") is None
    assert await store.get_resources_by_id("rs-none") is None
    assert await store.query_attempts("ro-none") == []
    assert await store.query_spans("ro-none") == []


async def resources_are_snapshots(store: LightningStore) -> None:
    """Adding and updating mark a snapshot as the latest; the latest with a name can be asked for."""
    assert await store.get_latest_resources() is None
    model = LLM(endpoint="http://127.0.0.1/v1", model="m", sampling_parameters={"temperature": 0.5})
    first = await store.add_resources({"llm": model})
    second = await store.add_resources({"prompt": PromptTemplate(template="{x}", engine="f-string")})
    assert first.resources_id.startswith("rs-")
    assert await store.get_latest_resources() == second
    assert await store.get_latest_resources("llm") == first
    assert await store.get_latest_resources("nothing") is None
    assert await store.update_resources(first.resources_id, {"llm": model}) == first
    assert await store.get_latest_resources() == first
    assert await store.get_resources_by_id(second.resources_id) == second


async def projects_do_not_see_each_other(store: LightningStore) -> None:
    """Queue, latest resources and listings are per project."""
    other = store.with_project("other")
    assert other.project == "other"
    await store.add_resources({})
    rollout = await store.enqueue_rollout("mine")
    assert await other.dequeue_rollout() is None
    assert await other.get_latest_resources() is None
    assert await other.query_rollouts() == await other.query_newest_rollouts() == []
    theirs = await other.enqueue_rollout("theirs")
    assert [r.rollout_id for r in await store.query_rollouts()] == [rollout.rollout_id]
    assert [r.rollout_id for r in await other.query_rollouts()] == [theirs.rollout_id]


async def deleting_takes_all_that_belongs(store: LightningStore) -> None:
    """Deleting a rollout takes its attempts, spans and children; retention keeps what is wanted or at work."""
    parent = await store.start_rollout("parent")
    child = await store.start_rollout("child", metadata={"parent_rollout_id": parent.rollout_id})
    await store.add_spans([span_of(parent), span_of(child)])
    assert [r.rollout_id for r in await store.query_child_rollouts(parent.rollout_id)] == [child.rollout_id]
    assert await store.delete_rollouts([parent.rollout_id, "ro-none"]) == 2
    assert await store.get_rollout_by_id(child.rollout_id) is None
    assert await store.query_spans(parent.rollout_id) == []
    done = [await claimed(store) for _ in range(4)]
    for rollout in done[:3]:
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    waiting = await store.enqueue_rollout("waits")
    assert await store.prune() == 0
    assert await store.prune(before=done[0].start_time) == 0
    assert await store.prune(keep=3) == 2
    assert await store.prune(before=time.time() + 10) == 1
    left = {rollout.rollout_id for rollout in await store.query_rollouts()}
    assert left == {done[3].rollout_id, waiting.rollout_id}


async def statistics_count(store: LightningStore) -> None:
    """The statistics count rollouts, attempts, spans, resources, the queue and the statuses."""
    rollout = await claimed(store)
    await store.enqueue_rollouts(["a", "b"])
    await store.add_spans([span_of(rollout), span_of(rollout)])
    await store.add_resources({})
    found = await store.statistics()
    assert (found.rollouts, found.attempts, found.spans, found.resources, found.queued) == (3, 1, 2, 1, 2)
    assert found.statuses == {"running": 1, "queuing": 2}
    assert found.size_bytes > 0


async def what_is_repeated_with_its_id_happens_once(store: LightningStore) -> None:
    """A call that creates something and comes again with the same id makes nothing new and returns what is there."""
    first = [await store.start_rollout("a", rollout_id="ro-a") for _ in range(2)]
    assert (first[0], first[0].rollout_id) == (first[1], "ro-a")
    queued = [await store.enqueue_rollouts(["b", "c"], rollout_ids=["ro-b", "ro-c"]) for _ in range(2)]
    assert queued[0] == queued[1] == [await store.enqueue_rollout("b", rollout_id="ro-b"), queued[0][1]]
    claims = [await store.dequeue_rollout(worker_id="w", lease_s=60, attempt_id="at-b") for _ in range(2)]
    assert claims[0] == claims[1]
    assert claims[0] is not None
    assert (claims[0].rollout_id, claims[0].attempt.attempt_id) == ("ro-b", "at-b")
    again = [await store.start_attempt("ro-a", attempt_id="at-a2") for _ in range(2)]
    assert (again[0], again[0].attempt.sequence_id) == (again[1], 2)
    given = await store.add_resources({}, resources_id="rs-a")
    model = LLM(endpoint="http://127.0.0.1/v1", model="m")
    assert given == await store.add_resources({"m": model}, resources_id="rs-a")
    assert given == await store.get_resources_by_id("rs-a")
    found = await store.statistics()
    assert (found.rollouts, found.attempts, found.resources, found.queued) == (3, 3, 1, 1)
    # What became of it meanwhile stays as it is, and a claim that was taken away is none.
    await store.update_attempt("ro-b", "at-b", status="failed")
    assert await store.dequeue_rollout(worker_id="w", lease_s=60, attempt_id="at-b") is None
    assert (await store.enqueue_rollout("b", rollout_id="ro-b")).status == "failed"
    assert (await store.statistics()).queued == 1
    assert await store.delete_rollouts(["ro-b"]) == 1
    await refused(UnknownIdError, store.enqueue_rollouts(["b", "c"], rollout_ids=["ro-b", "ro-c"]))


async def ids_of_another_project_are_refused(store: LightningStore) -> None:
    """An id for something new that another project uses is refused, and nothing of that project is shown or changed."""
    await store.enqueue_rollout("mine", rollout_id="ro-mine")
    mine = await store.dequeue_rollout(attempt_id="at-mine")
    await store.add_resources({}, resources_id="rs-mine")
    other = store.with_project("other")
    for call in (
        other.start_rollout("x", rollout_id="ro-mine"),
        other.enqueue_rollouts(["x", "y"], rollout_ids=["ro-new", "ro-mine"]),
        other.dequeue_rollout(attempt_id="at-mine"),
        other.add_resources({}, resources_id="rs-mine"),
    ):
        raised: Exception | None = None
        try:
            await call
        except AccessError as error:
            raised = error
        assert raised is not None, "an id of another project was taken"
    assert await other.query_rollouts() == []
    assert mine is not None
    assert await store.query_attempts("ro-mine") == [mine.attempt]


async def _claim_within(store: LightningStore, timeout_s: float) -> AttemptedRollout:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        rollout = await store.dequeue_rollout()
        if rollout is not None:
            return rollout
        await asyncio.sleep(0.02)
    msg = f"nothing could be claimed within {timeout_s} s"
    raise AssertionError(msg)


STORE_CONTRACT: list[Promise] = [
    start_rollout_is_never_queued,
    queue_is_first_in_first_out,
    no_two_workers_get_the_same_rollout,
    spans_and_status_move_the_rollout,
    failure_is_tried_again_as_configured,
    late_worker_is_refused_and_its_spans_are_kept,
    what_is_over_stays,
    cancelled_rollout_stays_cancelled,
    revived_attempt_leaves_the_queue,
    start_attempt_ignores_the_bound,
    update_rollout_knows_none_from_unset,
    silence_ends_the_lease,
    timeout_and_silence_are_noticed,
    waiting_ends_when_all_are_finished,
    rollouts_are_found_by_what_they_are,
    unknown_ids_are_told,
    resources_are_snapshots,
    projects_do_not_see_each_other,
    deleting_takes_all_that_belongs,
    statistics_count,
    what_is_repeated_with_its_id_happens_once,
    ids_of_another_project_are_refused,
    *SPAN_CONTRACT,
    *FOLLOW_CONTRACT,
]
"""Every promise; a store keeps the contract when it passes all of them, each on an empty store."""
