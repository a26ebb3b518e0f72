"""The queue: O(1), in order, bounded by heap, no loss without a count, no wake-up missed."""

from __future__ import annotations

import gc
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from agentlightning import configure, semconv
from agentlightning.pipeline.ledger import Ledger
from agentlightning.pipeline.queue import EndedSpan, Flush, SpanQueue

if TYPE_CHECKING:
    from types import FrameType

SPAN = ReadableSpan("work")
SPAN_BYTES = 5_600


def counters(queue: SpanQueue, limit: int = 10_000) -> list[int]:
    """Take everything and return the places in the order of hand-over."""
    found: list[int] = []
    while items := queue.take(limit):
        found += [item.counter for item in items if isinstance(item, EndedSpan)]
    return found


@pytest.fixture
def ledger() -> Ledger:
    """Count in memory; nothing but a queue's own bound bounds it."""
    configure(memory_threshold=2**32)
    return Ledger(None)


def test_items_leave_in_the_order_of_their_numbers(ledger: Ledger) -> None:
    """Eight threads at once: numbers are given once each, and the queue holds them in order."""
    queue = SpanQueue(2**30, ledger)

    def work() -> None:
        for _ in range(2_000):
            assert queue.put_ended(SPAN)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.account().produced == 16_000
    assert counters(queue, 333) == list(range(1, 16_001))


def test_a_full_queue_waits_once_and_then_counts(ledger: Ledger) -> None:
    """Nobody takes: the first span waits, the next are dropped at once, each counted; room ends that."""
    configure(queue_block_ms=50)
    queue = SpanQueue(10 * SPAN_BYTES, ledger)
    assert [queue.put_ended(SPAN) for _ in range(10)] == [True] * 10
    began = time.perf_counter()
    assert [queue.put_ended(SPAN) for _ in range(1_000)] == [False] * 1_000
    assert 0.04 < time.perf_counter() - began < 1
    account = ledger.account()
    assert (account.produced, account.waiting, account.lost) == (1_010, 10, {"queue_full": 1_000})
    assert len(queue.take(5)) == 5
    assert queue.put_ended(SPAN)


def test_a_full_queue_waits_while_somebody_takes(ledger: Ledger) -> None:
    """Many threads want the room that is made one span at a time, each for longer than it may wait: none is lost."""
    configure(queue_block_ms=150)
    queue = SpanQueue(10 * SPAN_BYTES, ledger)
    threads = [threading.Thread(target=lambda: [queue.put_ended(SPAN) for _ in range(5)]) for _ in range(12)]
    for thread in threads:
        thread.start()
    taken = 0
    while taken < 60:
        taken += len(queue.take(1))
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert ledger.account().lost == {}


REWARD = ReadableSpan(semconv.SpanNames.REWARD.value)


def test_rewards_push_out_others_and_are_lost_last(ledger: Ledger) -> None:
    """A full queue gives its places to rewards, the oldest first, and what remains keeps its order."""
    configure(queue_block_ms=0)
    queue = SpanQueue(10 * SPAN_BYTES, ledger)
    for number in range(10):
        assert queue.put_ended(REWARD if number == 2 else SPAN)
    assert [queue.put_ended(REWARD) for _ in range(9)] == [True] * 9
    assert not queue.put_ended(SPAN)
    assert ledger.account().lost == {"queue_full": 10}
    assert queue.put_ended(REWARD)  # only rewards are left: the oldest goes
    account = ledger.account()
    assert (account.lost, account.waiting, account.produced) == ({"queue_full": 11}, 10, 21)
    assert counters(queue) == [*range(11, 20), 21]
    assert queue.put_ended(SPAN)


def test_a_policy_that_drops_the_oldest_never_waits(ledger: Ledger) -> None:
    """The newest spans are there, the program was not held up, and each loss is counted."""
    configure(queue_policy="drop_oldest", queue_block_ms=60_000)
    queue = SpanQueue(10 * SPAN_BYTES, ledger)
    began = time.perf_counter()
    assert all(queue.put_ended(SPAN) for _ in range(1_000))
    assert time.perf_counter() - began < 5
    assert ledger.account().lost == {"queue_full": 990}
    assert counters(queue) == list(range(991, 1_001))


def test_a_rate_limit_lets_a_burst_through(ledger: Ledger) -> None:
    """As many at once as the burst, then as many as the rate; rewards always."""
    configure(rate_limit=50, rate_burst=20)
    queue = SpanQueue(2**24, ledger)
    began = time.perf_counter()
    kept = sum(queue.put_ended(SPAN) for _ in range(200))
    taken = time.perf_counter() - began
    assert 20 <= kept <= 21 + 50 * taken
    time.sleep(0.1)
    assert queue.put_ended(SPAN)
    assert all(queue.put_ended(REWARD) for _ in range(200))
    account = ledger.account()
    assert account.lost == {"filtered": 200 - kept}
    assert account.produced == 401


def test_a_waiting_producer_goes_on_as_soon_as_there_is_room(ledger: Ledger) -> None:
    """A worker that takes lets the program go on, and nothing is lost."""
    queue = SpanQueue(4 * SPAN_BYTES, ledger)

    def work() -> None:
        for _ in range(400):
            queue.put_ended(SPAN)

    producer = threading.Thread(target=work)
    producer.start()
    found: list[int] = []
    while len(found) < 400:
        queue.wake.wait(1)
        found += [item.counter for item in queue.take(500)]
    producer.join()
    assert found == list(range(1, 401))
    assert ledger.account().lost == {}


def test_the_bound_follows_the_size_of_spans(ledger: Ledger) -> None:
    """Large spans make the queue shorter, and a batch too; small ones let it grow again."""
    queue = SpanQueue(16 * 2**20, ledger)
    for _ in range(40):
        queue.learn(2**20)
    for _ in range(3):
        assert queue.put_ended(SPAN)
    assert len(queue.take(500)) == 2
    for _ in range(60):
        queue.learn(0)
    for _ in range(3_000):
        assert queue.put_ended(SPAN)
    assert len(queue.take(500)) == 500


def test_pressure_is_reported_once_until_it_is_over(ledger: Ledger) -> None:
    """Half full calls ``on_pressure`` once; again only after somebody saw that it was over."""
    queue = SpanQueue(10 * SPAN_BYTES, ledger)
    calls: list[int] = []
    queue.on_pressure = lambda: calls.append(queue.waiting())
    for _ in range(8):
        queue.put_ended(SPAN)
    assert calls == [5]
    assert queue.urgent
    assert queue.is_pressed()
    queue.take(5)
    assert not queue.is_pressed()
    for _ in range(5):
        queue.put_ended(SPAN)
    assert calls == [5, 5]


def test_whoever_sleeps_is_woken(ledger: Ledger) -> None:
    """The race of falling asleep against the next item, 2,000 times: no item is left lying."""
    queue = SpanQueue(2**30, ledger)
    taken = threading.Semaphore(0)

    def consume() -> None:
        while True:
            queue.sleeping = True
            if not queue.waiting():
                queue.wake.wait()
            queue.sleeping = False
            queue.wake.clear()
            for item in queue.take(500):
                if isinstance(item, Flush):
                    item.resolve(delivered=True)
                    return
                taken.release()

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    for _ in range(2_000):
        queue.put_ended(SPAN)
        assert taken.acquire(timeout=5)
    flush = Flush()
    queue.put(flush)
    assert flush.wait(5)
    consumer.join(5)


def test_a_flush_that_was_given_up_says_so() -> None:
    """False for what did not arrive, at once; False too when time is up."""
    given_up, late = Flush(), Flush()
    given_up.resolve(delivered=False)
    assert not given_up.wait(5)
    assert not late.wait(0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer")
def test_a_signal_handler_may_end_a_span_anywhere(ledger: Ledger) -> None:
    """A handler that interrupts a hand-over and hands over itself neither deadlocks nor loses."""
    queue = SpanQueue(2**30, ledger)
    handled: list[bool] = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        handled.append(queue.put_ended(SPAN))

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    try:
        put = 0
        until = time.monotonic() + 5
        while put < 50_000 and time.monotonic() < until:  # far from full, however fast the machine is
            put += queue.put_ended(SPAN)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert len(handled) > 5
    assert len(counters(queue)) == put + len(handled)


def test_the_garbage_collector_may_end_a_span_anywhere(ledger: Ledger) -> None:
    """A finalizer that ends a span while its thread hands one over does no harm."""
    queue = SpanQueue(2**30, ledger)
    ended: list[bool] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            ended.append(queue.put_ended(SPAN))

    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for _ in range(2_000):
            Cycle()
            queue.put_ended(SPAN)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(ended) == 2_000
    assert len(counters(queue)) == 4_000
