from __future__ import annotations

import threading

import pytest

from agentlightning.errors import StoreFullError, StoreUnavailableError
from agentlightning.testing import RecordingStore
from agentlightning.types.record import ResourceRecord, SpanRecord, WriteBatch, WriteResult

RESOURCE = ResourceRecord({"service.name": "test"})


def _span(number: int, *, ended: bool = True) -> SpanRecord:
    return SpanRecord(
        rollout_id="ro-1",
        attempt_id="at-1",
        counter=number,
        trace_id="a" * 32,
        span_id=f"{number:016x}",
        name="step",
        start_ns=1,
        end_ns=2 if ended else None,
        resource=RESOURCE,
    )


def test_an_ended_span_is_new_once() -> None:
    """A span that arrives again is counted as a duplicate, and an open note is counted as neither."""
    store = RecordingStore()
    assert store.write_batch(WriteBatch(spans=[_span(1, ended=False), _span(2)])) == WriteResult(1)
    assert store.write_batch(WriteBatch(spans=[_span(1), _span(2), _span(2)])) == WriteResult(1, 2)
    assert [span.counter for span in store.spans] == [1, 2, 1, 2, 2]
    assert len(store.batches) == store.calls == 2


def test_fails_as_often_as_told_and_keeps_nothing_then() -> None:
    """The first calls raise and leave no trace, the next one is stored."""
    store = RecordingStore(failures=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            store.write_batch(WriteBatch(spans=[_span(1)]))
    assert store.spans == []
    assert store.write_batch(WriteBatch(spans=[_span(1)])) == WriteResult(1)
    assert store.calls == 3


def test_raises_the_error_it_was_given_for_ever() -> None:
    """With -1 every call raises, and the error is the one that the test chose."""
    store = RecordingStore(failures=-1, error=StoreFullError("no space"))
    for _ in range(3):
        with pytest.raises(StoreFullError, match="no space"):
            store.write_batch(WriteBatch())


def test_waits_at_its_gate() -> None:
    """A call is seen at once but stores nothing before the gate opens."""
    gate = threading.Event()
    store = RecordingStore(gate=gate)
    writer = threading.Thread(target=store.write_batch, args=(WriteBatch(spans=[_span(1)]),))
    writer.start()
    assert store.wait_for_calls(1)
    assert store.spans == []
    gate.set()
    assert store.wait_for_spans(1)
    writer.join()


def test_a_gate_that_stays_closed_is_an_error() -> None:
    """A forgotten gate fails the write instead of holding the test for ever."""
    store = RecordingStore(gate=threading.Event(), write_timeout_s=0.01)
    with pytest.raises(StoreUnavailableError, match="gate"):
        store.write_batch(WriteBatch(spans=[_span(1)]))
    assert not store.wait_for_spans(1, timeout_s=0.01)


def test_is_usable_after_fork_and_close() -> None:
    """It has what the pipeline asks of a writer besides writing."""
    store = RecordingStore(url="recording://")
    store.after_fork()
    store.close()
    assert (store.url, store.close_count) == ("recording://", 1)
    assert store.write_batch(WriteBatch(spans=[_span(1)])) == WriteResult(1)
