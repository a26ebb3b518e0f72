"""Many rollouts at once in one process: each has exactly its own spans, in its processor and in its store."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from agentlightning import OtelTracer, SqliteLightningStore, configure, uninstrument_all
from agentlightning._internal.context import running
from agentlightning.pipeline.process import get_pipeline
from agentlightning.testing import RecordingStore
from agentlightning.tracer.context import TraceContext
from agentlightning.tracer.processor import MAX_KEPT_SPANS, LightningSpanProcessor
from agentlightning.tracer.provider import get_provider, get_tracer, providers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentlightning import Rollout
    from agentlightning.types.record import SpanRecord

MANY = 100


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteLightningStore]:
    """Return a store of the test's own."""
    store = SqliteLightningStore(tmp_path / "store.db")
    yield store
    store.close()


@pytest.fixture
def tracer() -> Iterator[OtelTracer]:
    """Return a tracer that waits for its store however busy the machine is; what it patched is put back."""
    configure(flush_timeout_s=15)
    get_provider()
    yield OtelTracer()
    uninstrument_all()


def emit(name: str) -> None:
    """Write one span."""
    with get_tracer("test").start_as_current_span(name):
        pass


def names(processor: LightningSpanProcessor) -> list[str]:
    """Return the names of the spans that *processor* kept."""
    return sorted(span.name for span in processor.spans())


async def stored(store: SqliteLightningStore) -> dict[str, list[str]]:
    """Return the names of the spans in *store* by the rollout's input."""
    found: dict[str, list[str]] = {}
    for rollout in await store.query_rollouts():
        found[str(rollout.input)] = sorted(span.name for span in await store.query_spans(rollout.rollout_id))
    return found


def ended(store: RecordingStore) -> list[SpanRecord]:
    """Return the ended spans that *store* was given."""
    return [span for span in store.spans if span.end_ns is not None]


WANTED = ["executor", "inner", "outer", "pool", "task", "thread", "to_thread"]


async def all_ways(label: str) -> None:
    """Write a span in every way in which a program may go on elsewhere."""
    with get_tracer("test").start_as_current_span(f"{label}:outer"):
        await asyncio.sleep(0)
        emit(f"{label}:inner")
        await asyncio.create_task(asyncio.to_thread(emit, f"{label}:to_thread"))
        await asyncio.get_running_loop().run_in_executor(None, emit, f"{label}:executor")

        async def task() -> None:
            await asyncio.sleep(0)
            emit(f"{label}:task")

        await asyncio.gather(task())
        with ThreadPoolExecutor(1) as pool:
            await asyncio.wrap_future(pool.submit(emit, f"{label}:pool"))
        thread = threading.Thread(target=emit, args=(f"{label}:thread",))
        thread.start()
        await asyncio.to_thread(thread.join)


async def test_many_rollouts_in_one_event_loop(tracer: OtelTracer, store: SqliteLightningStore) -> None:
    """100 rollouts interleaved in one event loop have exactly their own spans, from tasks, threads and executors."""
    seen: dict[str, list[str]] = {}
    traces: dict[str, set[int]] = {}

    async def one(number: int) -> None:
        label = f"r{number}"
        async with tracer.trace_context(label, store=store) as processor:
            await all_ways(label)
        seen[label] = names(processor)
        traces[label] = {span.context.trace_id for span in processor.spans() if span.context}
        assert sorted(span.name for span in tracer.get_last_trace()) == seen[label]

    await asyncio.gather(*(one(number) for number in range(MANY)))
    wanted = {f"r{n}": [f"r{n}:{way}" for way in WANTED] for n in range(MANY)}
    assert seen == wanted
    assert await stored(store) == wanted
    assert all(len(ids) == 1 for ids in traces.values())
    assert len({trace_id for ids in traces.values() for trace_id in ids}) == MANY


async def test_many_rollouts_in_threads(tracer: OtelTracer, store: SqliteLightningStore) -> None:
    """100 rollouts at once in threads have exactly their own spans, and each its own last trace."""
    barrier = threading.Barrier(MANY)
    wrong: list[str] = []

    def one(number: int) -> None:
        label = f"t{number}"
        barrier.wait()
        with tracer.trace_context(label, store=store) as processor:
            asyncio.run(all_ways(label))
        if names(processor) != [f"{label}:{way}" for way in WANTED]:
            wrong.append(label)
        if sorted(span.name for span in tracer.get_last_trace()) != names(processor):
            wrong.append(f"last trace of {label}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert await stored(store) == {f"t{n}": [f"t{n}:{way}" for way in WANTED] for n in range(MANY)}


async def test_worker_threads_of_a_pool_do_not_keep_a_rollout(tracer: OtelTracer, store: SqliteLightningStore) -> None:
    """A pool's thread that was started inside a rollout works for the next submitter's rollout, or for none."""
    with ThreadPoolExecutor(1) as pool:
        with tracer.trace_context("one", store=store) as one:
            pool.submit(emit, "one").result()
        with tracer.trace_context("two", store=store) as two:
            pool.submit(emit, "two").result()
        assert pool.submit(running.get).result() is None
    assert (names(one), names(two)) == (["one"], ["two"])
    assert await stored(store) == {"one": ["one"], "two": ["two"]}


async def only(store: SqliteLightningStore, label: str) -> Rollout:
    """Return the rollout whose input is *label*."""
    return next(rollout for rollout in await store.query_rollouts() if rollout.input == label)


async def test_nested_rollout_knows_its_parent(tracer: OtelTracer, store: SqliteLightningStore) -> None:
    """A context inside another makes a rollout of its own that names the outer one; each has only its spans."""
    with tracer.trace_context("outer", store=store) as outer:
        emit("before")
        with tracer.trace_context("inner", store=store) as inner:
            emit("inside")
        emit("after")
    assert (names(outer), names(inner)) == (["after", "before"], ["inside"])
    parent, child = await only(store, "outer"), await only(store, "inner")
    assert (child.metadata or {})["parent_rollout_id"] == parent.rollout_id
    assert await stored(store) == {"outer": ["after", "before"], "inner": ["inside"]}


async def test_existing_attempt(tracer: OtelTracer, store: SqliteLightningStore) -> None:
    """With both ids the spans go to that attempt, whose status stays the caller's business; one id is an error."""
    rollout = await store.start_rollout("mine")
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    with tracer.trace_context(store=store, **ids):
        emit("a")
    assert [span.name for span in await store.query_spans(rollout.rollout_id)] == ["a"]
    found = await store.get_rollout_by_id(rollout.rollout_id)
    assert found is not None
    assert found.status == "running"
    with pytest.raises(ValueError, match="together"):
        tracer.trace_context(rollout_id="ro-1")


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "succeeded"), (ValueError("x"), "failed"), (SystemExit(0), "succeeded"), (SystemExit(2), "failed")],
)
async def test_how_the_block_ends_is_the_status(
    tracer: OtelTracer, store: SqliteLightningStore, error: BaseException | None, status: str
) -> None:
    """A block that raises fails its rollout and the exception goes on; leaving by ``sys.exit(0)`` is no failure."""

    def run() -> None:
        with tracer.trace_context("x", store=store):
            emit("a")
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)) as caught:
            run()
        assert caught.value is error
    assert (await only(store, "x")).status == status


async def test_trace_run(tracer: OtelTracer, tmp_path: Path) -> None:
    """``trace_run`` and ``trace_run_async`` return what the function returns, and its spans are the last trace."""

    def work(number: int) -> int:
        emit("sync")
        return number + 1

    async def work_async(number: int) -> int:
        emit("async")
        return number + 2

    assert tracer.trace_run(work, 1) == 2
    assert [span.name for span in tracer.get_last_trace()] == ["sync"]
    assert await tracer.trace_run_async(work_async, number=1) == 3
    assert [span.name for span in tracer.get_last_trace()] == ["async"]


def test_store_that_hangs_costs_the_flush_timeout(tracer: OtelTracer, caplog: pytest.LogCaptureFixture) -> None:
    """When the store does not answer in time the block ends with a warning, and the spans come when it does."""
    gate = threading.Event()
    store = RecordingStore(gate=gate)
    configure(flush_timeout_s=0.1)
    with caplog.at_level(logging.WARNING, "agentlightning"), TraceContext("slow", store=store):
        emit("late")
    assert "not in the store yet" in caplog.text
    assert [span.name for span in tracer.get_last_trace()] == ["late"]
    gate.set()
    assert get_pipeline().flush(10)
    assert [span.name for span in ended(store)] == ["late"]


def test_late_span_goes_to_the_store_of_its_rollout() -> None:
    """A span that ends after its context was left still belongs to the context's rollout and store."""
    store = RecordingStore()
    with TraceContext("early", store=store) as processor:
        span = get_tracer("test").start_span("late")
    span.end()
    assert get_pipeline().flush(10)
    assert [record.name for record in ended(store)] == ["late"]
    assert processor.spans() == []


def test_kept_spans_are_bounded() -> None:
    """A context keeps 10,000 spans in memory; its store gets them all."""
    store = RecordingStore()
    with TraceContext("big", store=store) as processor:
        tracer = get_tracer("test")
        for _ in range(MAX_KEPT_SPANS + 5):
            tracer.start_span("s").end()
        assert processor.force_flush()
    assert len(processor.spans()) == MAX_KEPT_SPANS
    assert len(ended(store)) == MAX_KEPT_SPANS + 5


def test_nothing_is_kept_after_a_context() -> None:
    """After many contexts no attempt is remembered, and the spans of all but the last one are gone from memory."""
    store = RecordingStore()
    with TraceContext("first", store=store) as processor:
        emit("a")
        span = weakref.ref(processor.spans()[0])
    del processor
    for number in range(20):
        with TraceContext(str(number), store=store):
            emit("b")
    pipeline = get_pipeline()
    assert pipeline.flush(10)
    gc.collect()
    assert span() is None
    assert providers.collectors == {}
    assert vars(pipeline)["_routes"] == {}


def test_left_in_another_context_than_entered(tracer: OtelTracer) -> None:
    """Entering in one contextvars context and leaving in another, as fixtures do, raises nothing."""
    store = RecordingStore()
    context = TraceContext("fixture", store=store)
    contextvars.copy_context().run(context.__enter__)
    contextvars.copy_context().run(context.__exit__, None, None, None)
    assert running.get() is None
    assert [end.status for batch in store.batches for end in batch.ends] == ["succeeded"]


async def test_fixture_like_generators_keep_rollouts_apart(tracer: OtelTracer, store: SqliteLightningStore) -> None:
    """Two contexts of one task that end in the order in which they began do not mix up what runs afterwards."""
    first, second = tracer.trace_context("first", store=store), tracer.trace_context("second", store=store)
    first.__enter__()
    second.__enter__()
    emit("b")
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert (await stored(store))["second"] == ["b"]
