"""Random walks over the store: every backend agrees, step by step, with a model of a page of Python."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentlightning.errors import StaleAttemptError, TransitionError
from agentlightning.server import LightningStoreServer
from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, SqliteLightningStore
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.core import AttemptStatus, RolloutConfig, RolloutMode, RolloutStatus
from agentlightning.types.query import RolloutFilter
from agentlightning.types.record import AttemptEnd, WriteBatch
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OVER = {"succeeded", "failed", "timeout"}
FINISHED = {"succeeded", "failed", "cancelled"}
RETRIED: list[AttemptStatus] = ["failed", "unresponsive"]
CONFIGS = [RolloutConfig(), RolloutConfig(max_attempts=2, retry_condition=RETRIED)]
ATTEMPT_STATUSES: list[AttemptStatus] = ["running", "failed", "succeeded", "unresponsive", "timeout"]
SHORTEST_LEASE_S = 1e-6
"""Over before the next call."""
ROLLOUT_STATUSES: list[RolloutStatus] = ["queuing", "requeuing", "preparing", "running", "cancelled", "succeeded"]


@dataclass
class Model:
    """What the reference says, for rollouts numbered in the order in which they were made."""

    rollouts: list[str] = field(default_factory=list[str])
    configs: list[RolloutConfig] = field(default_factory=list[RolloutConfig])
    attempts: list[list[str]] = field(default_factory=list[list[str]])
    queue: list[int] = field(default_factory=list[int])
    spans: list[int] = field(default_factory=list[int])

    tags: list[int] = field(default_factory=list[int])
    gone: set[int] = field(default_factory=set[int])

    def new(self, status: str, config: RolloutConfig, tag: int) -> int:
        self.rollouts.append("")
        self.configs.append(config)
        self.tags.append(tag)
        self.attempts.append([] if status == "queuing" else ["preparing"])
        self.spans.append(0)
        self.move(len(self.rollouts) - 1, status)
        return len(self.rollouts) - 1

    def move(self, number: int, status: str) -> None:
        self.rollouts[number] = status
        if status not in {"queuing", "requeuing"}:
            self.queue = [other for other in self.queue if other != number]
        elif number not in self.queue:
            self.queue.append(number)

    def next_attempt(self, number: int) -> None:
        self.attempts[number].append("preparing")
        self.move(number, "preparing")

    def set_attempt(self, number: int, index: int, status: str) -> type[Exception] | None:
        attempts = self.attempts[number]
        old, latest = attempts[index], index in {-1, len(attempts) - 1}
        index %= len(attempts)
        if old != status:
            if not latest:
                return StaleAttemptError
            if old in OVER:
                return TransitionError
        attempts[index] = status
        if not latest or self.rollouts[number] in FINISHED or (old == status and status != "running"):
            return None
        if status in {"running", "succeeded"}:
            self.move(number, status)
        else:
            config = self.configs[number]
            again = status in config.retry_condition and index + 1 < config.max_attempts
            self.move(number, "requeuing" if again else "failed")
        return None

    def span(self, number: int, index: int) -> None:
        self.spans[number] += 1
        self.sign_of_life(number, index)

    def sign_of_life(self, number: int, index: int) -> None:
        attempts = self.attempts[number]
        if index == len(attempts) - 1:
            if attempts[index] in {"preparing", "unresponsive"}:
                attempts[index] = "running"
            if attempts[index] == "running" and self.rollouts[number] in {"preparing", "queuing", "requeuing"}:
                self.move(number, "running")


class StoreWalk(RuleBasedStateMachine):
    """Do the same to the model and to every backend, and compare after each step."""

    @initialize()
    def begin(self) -> None:
        """Start with empty stores."""
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.model = Model()
        self.stores: list[LightningStore] = [
            InMemoryLightningStore(),
            SqliteLightningStore(Path(self.folder.name) / "walk.db"),
        ]
        self.server = LightningStoreServer(SqliteLightningStore(Path(self.folder.name) / "served.db"), "127.0.0.1", 0)
        self.loop.run_until_complete(self.server.start())
        self.stores.append(LightningStoreClient(self.server.endpoint))
        self.ids: list[list[str]] = [[] for _ in self.stores]

    def teardown(self) -> None:
        """Close what was opened."""
        for store in self.stores:
            store.close()
        self.server.close()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def each(self, call: Callable[[LightningStore, list[str]], Awaitable[Any]]) -> list[Any]:
        """Do the same to every store and return what each answers; an error is its class."""

        async def answer(store: LightningStore, ids: list[str]) -> Any:
            try:
                return await call(store, ids)
            except ValueError as error:
                return type(error)

        return [self.loop.run_until_complete(answer(*pair)) for pair in zip(self.stores, self.ids, strict=True)]

    def pick(self, number: int) -> int | None:
        """Return one of the rollouts that were not deleted, or None."""
        left = [which for which in range(len(self.model.rollouts)) if which not in self.model.gone]
        return left[number % len(left)] if left else None

    @rule(config=st.sampled_from(CONFIGS), started=st.booleans(), tag=st.integers(0, 1))
    def make(self, config: RolloutConfig, started: bool, tag: int) -> None:
        """Start or enqueue a rollout."""

        async def do(store: LightningStore, ids: list[str]) -> None:
            make = store.start_rollout if started else store.enqueue_rollout
            mode: RolloutMode = "train" if tag else "val"
            made = await make({"text": f"Task {tag}"}, config=config, mode=mode, metadata={"tag": tag, "of": "walk"})
            ids.append(made.rollout_id)

        self.each(do)
        self.model.new("preparing" if started else "queuing", config, tag)

    @rule(lease_s=st.sampled_from([None, 60.0, SHORTEST_LEASE_S]))
    def claim(self, lease_s: float | None) -> None:
        """Take the first of the queue; a lease that is over at once makes the attempt unresponsive."""

        async def do(store: LightningStore, ids: list[str]) -> int | None:
            rollout = await store.dequeue_rollout(lease_s=lease_s, worker_id="walker")
            if rollout is None:
                return None
            assert rollout.attempt.worker_id == "walker"
            return ids.index(rollout.rollout_id)

        expected = self.model.queue[0] if self.model.queue else None
        assert self.each(do) == [expected] * len(self.stores)
        if expected is not None:
            self.model.next_attempt(expected)
            if lease_s == SHORTEST_LEASE_S:
                self.model.set_attempt(expected, -1, "unresponsive")

    @rule(number=st.integers(0, 50), index=st.integers(0, 3))
    def beat(self, number: int, index: int) -> None:
        """Send a heartbeat of an attempt: it counts like a span, and a late worker is told that it is late."""
        chosen = self.pick(number)
        if chosen is None or not self.model.attempts[chosen]:
            return
        index %= len(self.model.attempts[chosen])
        is_late = index < len(self.model.attempts[chosen]) - 1

        async def do(store: LightningStore, ids: list[str]) -> None:
            attempt = (await store.query_attempts(ids[chosen]))[index]
            await store.heartbeat(ids[chosen], attempt.attempt_id)

        assert self.each(do) == [StaleAttemptError if is_late else None] * len(self.stores)
        if not is_late:
            self.model.sign_of_life(chosen, index)

    @rule(number=st.integers(0, 50))
    def delete(self, number: int) -> None:
        """Delete a rollout; a second time there is nothing to delete."""
        chosen = self.pick(number)
        if chosen is None:
            return
        for expected in (1, 0):
            answers = self.each(lambda store, ids: store.delete_rollouts([ids[chosen], "ro-unknown"]))
            assert answers == [expected] * len(self.stores)
        self.model.gone.add(chosen)
        self.model.move(chosen, "gone")

    @rule(
        status=st.one_of(st.none(), st.sets(st.sampled_from(ROLLOUT_STATUSES), min_size=1)),
        tag=st.one_of(st.none(), st.integers(0, 2)),
        by=st.sampled_from(["metadata", "text", "mode"]),
        page=st.tuples(st.booleans(), st.one_of(st.none(), st.integers(0, 4)), st.integers(0, 3)),
    )
    def look(
        self, status: set[RolloutStatus] | None, tag: int | None, by: str, page: tuple[bool, int | None, int]
    ) -> None:
        """Ask for rollouts by status, metadata, text and mode, page by page."""
        newest_first, limit, offset = page
        chosen = None if tag is None else by
        where = RolloutFilter(
            metadata={"tag": tag, "of": "walk"} if chosen == "metadata" else None,
            text=f"task {tag}" if chosen == "text" else None,
            modes=[("val", "train", "test")[tag or 0]] if chosen == "mode" else None,
            newest_first=newest_first,
            limit=limit,
            offset=offset,
        )
        model = self.model
        found = [
            number
            for number, (at, its) in enumerate(zip(model.rollouts, model.tags, strict=True))
            if number not in model.gone and (status is None or at in status) and tag in {None, its}
        ]
        found = (found[::-1] if newest_first else found)[offset:]

        async def do(store: LightningStore, ids: list[str]) -> list[int]:
            answer = await store.query_rollouts(status=None if status is None else list(status), where=where)
            return [ids.index(rollout.rollout_id) for rollout in answer]

        assert self.each(do) == [found if limit is None else found[:limit]] * len(self.stores)

    @rule(number=st.integers(0, 50))
    def try_again(self, number: int) -> None:
        """Make a further attempt on demand."""
        chosen = self.pick(number)
        if chosen is not None:
            self.each(lambda store, ids: store.start_attempt(ids[chosen]))
            self.model.next_attempt(chosen)

    @rule(number=st.integers(0, 50), index=st.integers(0, 3), status=st.sampled_from(ATTEMPT_STATUSES))
    def update_attempt(self, number: int, index: int, status: AttemptStatus) -> None:
        """Give an attempt a status."""
        chosen = self.pick(number)
        if chosen is None or not self.model.attempts[chosen]:
            return
        index %= len(self.model.attempts[chosen])

        async def do(store: LightningStore, ids: list[str]) -> None:
            attempt = (await store.query_attempts(ids[chosen]))[index]
            await store.update_attempt(ids[chosen], attempt.attempt_id, status=status)

        expected = self.model.set_attempt(chosen, index, status)
        assert self.each(do) == [expected] * len(self.stores)

    @rule(number=st.integers(0, 50), status=st.sampled_from(ROLLOUT_STATUSES))
    def update_rollout(self, number: int, status: RolloutStatus) -> None:
        """Give a rollout a status."""
        chosen = self.pick(number)
        if chosen is None:
            return

        async def do(store: LightningStore, ids: list[str]) -> None:
            await store.update_rollout(ids[chosen], status=status)

        old = self.model.rollouts[chosen]
        refused = old in FINISHED and status != old and status not in {"queuing", "requeuing"}
        if not refused and status != old:
            self.model.move(chosen, status)
        assert self.each(do) == [TransitionError if refused else None] * len(self.stores)

    @rule(number=st.integers(0, 50), index=st.integers(0, 3), by_batch=st.booleans(), ends=st.booleans())
    def span(self, number: int, index: int, by_batch: bool, ends: bool) -> None:
        """Store a span of an attempt, through the API or in a batch of the pipeline that may end the attempt too."""
        chosen = self.pick(number)
        if chosen is None or not self.model.attempts[chosen]:
            return
        index %= len(self.model.attempts[chosen])

        async def do(store: LightningStore, ids: list[str]) -> None:
            attempt = (await store.query_attempts(ids[chosen]))[index]
            record = record_of(ids[chosen], attempt.attempt_id, 1)
            if not by_batch:
                await store.add_span(Span.from_record(record, 0))
                return
            end = AttemptEnd(rollout_id=ids[chosen], attempt_id=attempt.attempt_id, status="succeeded", end_ns=9)
            store.write_batch(WriteBatch(spans=[record], ends=[end] if ends else []))

        self.each(do)
        self.model.span(chosen, index)
        if by_batch and ends:
            self.model.set_attempt(chosen, index, "succeeded")

    @invariant()
    def all_agree(self) -> None:
        """Every store shows what the model says, and its queue holds what is queueing."""

        async def shape(store: LightningStore, ids: list[str]) -> list[tuple[str, list[str], bool, int]]:
            shapes: list[tuple[str, list[str], bool, int]] = []
            for number, rollout_id in enumerate(ids):
                if number in self.model.gone:
                    assert await store.get_rollout_by_id(rollout_id) is None
                    continue
                rollout = await store.get_rollout_by_id(rollout_id)
                assert rollout is not None
                attempts = await store.query_attempts(rollout_id)
                assert [attempt.sequence_id for attempt in attempts] == list(range(1, len(attempts) + 1))
                assert all((attempt.end_time is not None) == (attempt.status in OVER) for attempt in attempts)
                spans = await store.query_spans(rollout_id)
                assert [span.sequence_id for span in spans] == list(range(1, len(spans) + 1))
                statuses: list[str] = [attempt.status for attempt in attempts]
                shapes.append((rollout.status, statuses, rollout.end_time is not None, len(spans)))
            assert (await store.statistics()).queued == len(self.model.queue)
            return shapes

        model = self.model
        expected = [
            (status, attempts, status in FINISHED, spans)
            for number, (status, attempts, spans) in enumerate(
                zip(model.rollouts, model.attempts, model.spans, strict=True)
            )
            if number not in model.gone
        ]
        assert self.each(shape) == [expected] * len(self.stores)


StoreWalk.TestCase.settings = settings(max_examples=8, stateful_step_count=25)
TestStoreWalk = StoreWalk.TestCase
