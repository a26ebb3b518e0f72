"""Whatever fails inside of the pipeline, the program does not see it, and what it cost is counted."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning import configure, semconv
from agentlightning._internal.guard import failures
from agentlightning.errors import StoreUnavailableError
from agentlightning.pipeline import lane, process
from agentlightning.pipeline.export import Exporter
from agentlightning.pipeline.intake import Intake
from agentlightning.pipeline.ledger import Ledger
from agentlightning.pipeline.limits import MAX_SPAN_BYTES
from agentlightning.pipeline.open_spans import OpenSpans
from agentlightning.pipeline.prepare import Preparer
from agentlightning.pipeline.queue import SpanQueue
from agentlightning.pipeline.redaction import Redactor
from agentlightning.pipeline.replay import Replayer
from agentlightning.pipeline.sampling import Policy
from agentlightning.pipeline.segment import SegmentWriter
from agentlightning.pipeline.spill import Spill
from agentlightning.pipeline.tail import Tail
from agentlightning.pipeline.watch import Watch
from agentlightning.pipeline.worker import Worker
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.tracer.processor import CaptureProcessor

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.trace import Tracer

    from agentlightning.pipeline.ledger import Account

ERRORS = [ValueError("injected"), MemoryError(), RecursionError()]


@pytest.fixture
def tracer(quiet: None, own_pipeline: None) -> Tracer:
    """Return a tracer whose spans go through a pipeline of their own, as silent as for a user."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(CaptureProcessor({}, stamping=True))
    return provider.get_tracer("test")


def stored(home: Path) -> dict[str, str]:
    """Return the names and attributes of the spans in the default store."""
    connection = sqlite3.connect(home / "agentlightning.db")
    try:
        return dict(connection.execute("SELECT name, attributes FROM spans WHERE end_ns IS NOT NULL"))
    finally:
        connection.close()


def account_at_rest() -> Account:
    """Flush, and return what the ledger says."""
    process.flush(10)
    return process.account()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (CaptureProcessor, "finish"),
        (SpanQueue, "put_ended"),
        (OpenSpans, "take"),
        (SpanQueue, "learn"),
        (Worker, "take"),
        (Worker, "_put"),
        (Preparer, "convert"),
        (Redactor, "redact_all"),
        (Preparer, "finish"),
        (Exporter, "put"),
        (Exporter, "deliver"),
        (Exporter, "waiting"),
        (Ledger, "count"),
        (SqliteWriter, "write_batch"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_step_that_raises_three_times_is_survived(
    tracer: Tracer, isolated: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception
) -> None:
    """The program's own exception passes unchanged, the failures are counted, and later spans are stored."""
    real: Any = getattr(owner, name)
    left = [3]

    def failing(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return real(*args, **kwargs)

    mine = KeyError("the program's own")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        until = time.monotonic() + 5
        while left[0] and time.monotonic() < until:
            with pytest.raises(KeyError) as caught, tracer.start_as_current_span("work"):
                raise mine
            assert caught.value is mine
            process.flush(0.05)
    assert not left[0]
    assert sum(failures.counts().values()) >= 1
    tracer.start_span("after").end()
    account = account_at_rest()
    assert account.stored >= 1
    assert account.produced == account.stored + account.duplicate + account.waiting + account.total_lost
    assert "after" in stored(isolated)
    assert process.get_pipeline().worker.is_alive()


@pytest.mark.parametrize("owner", [Preparer, Redactor, Exporter, SqliteWriter], ids=lambda owner: owner.__name__)
def test_a_step_that_always_raises_is_counted_exactly(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch, owner: type
) -> None:
    """Produced = lost, by the reason that fits, and the worker goes on working."""
    name, reason = {
        Preparer: ("convert", "redactor_failed"),
        Redactor: ("redact_all", "redactor_failed"),
        Exporter: ("put", "store_error"),
        SqliteWriter: ("write_batch", "store_error"),
    }[owner]

    def failing(*_args: Any, **_kwargs: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        for _ in range(20):
            tracer.start_span("lost").end()
        account = account_at_rest()
        assert account.produced == 20
        assert account.lost == {reason: 20}
    tracer.start_span("kept").end()
    account = account_at_rest()
    assert (account.produced, account.stored, account.lost) == (21, 1, {reason: 20})
    assert process.get_pipeline().worker.is_alive()


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Policy, "decide"),
        (Policy, "refused"),
        (Tail, "admit"),
        (Tail, "expire"),
        (Watch, "look"),
        (Worker, "_put"),
        (Intake, "_sample"),
        (SpanQueue, "refuse"),
        (Spill, "put"),
        (SegmentWriter, "append"),
        (Replayer, "step"),
        (Ledger, "settle"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_step_of_sampling_and_spilling_that_fails_is_counted(
    tracer: Tracer, isolated: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception
) -> None:
    """The program goes on unchanged, and afterwards every span is stored or lost for a reason: none is unaccounted."""
    configure(sample_rate=0.5, sample_rules="@a:*=0.5", tail_errors=True, tail_wait_s=0)
    real: Any = getattr(owner, name)
    left = [3]
    calls: list[Exception] = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            calls.append(error)
            raise error
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        write = SqliteWriter.write_batch
        patch.setattr(lane, "GRACE_S", -1.0)
        tracer.start_span("first", attributes={semconv.KEEP: True}).end()
        process.flush(5)
        patch.setattr(owner, name, failing)
        if owner in {Spill, SegmentWriter, Replayer, Ledger}:
            patch.setattr(SqliteWriter, "write_batch", _away)
        mine = KeyError("the program's own")
        for number in range(40):
            with pytest.raises(KeyError) as caught, tracer.start_as_current_span(f"work {number}"):  # noqa: PT012
                tracer.start_span("child", attributes={"a": "b"}).end()
                raise mine
            assert caught.value is mine
            if number % 10 == 9:  # several batches: the first failure of a store spills nothing yet
                process.flush(0.1)
        patch.setattr(SqliteWriter, "write_batch", write)
        process.flush(1)
    process.flush(0.5)
    if owner is not Watch:  # it looks once a second
        assert calls or owner is SpanQueue
        assert not calls or sum(failures.counts().values()) >= 1
    configure(sample_rate=1.0, sample_rules="", tail_errors=False)
    tracer.start_span("after").end()
    until = time.monotonic() + 10
    while (account := account_at_rest()).waiting and time.monotonic() < until:
        process.get_pipeline().worker.let_go(1)
    assert account.waiting == 0
    assert account.produced == account.stored + account.duplicate + account.total_lost
    assert "after" in stored(isolated)


def _away(*_args: Any, **_kwargs: Any) -> Any:
    raise StoreUnavailableError("away")


class Hostile:
    """A value of which every method raises."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError


class Slow:
    """A value that takes its time to say what it is."""

    asked_by: str = ""

    def __str__(self) -> str:
        Slow.asked_by = threading.current_thread().name
        time.sleep(0.3)
        return "slow"


def deep(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> list[Any]:
    """Return a list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


ODD: dict[str, Any] = {
    "nan": float("nan"),
    "infinite": float("inf"),
    "big": 10**400,
    "bytes": b"\xff\x00",
    "surrogate": "\ud800 alone",
    "nul": "a\x00b",
    "huge": "x" * (50 * 2**20),
    "hostile": Hostile(),
    "slow": Slow(),
    "cyclic": cyclic(),
    "deep": deep(1_000_000),
    "wide": list(range(200_000)),
    "mixed": [1, "a", None, float("nan"), b"\xff", "\udfff"],
    "nested": {"a": {"b": [{"c": "\ud800"}]}, 5: "not text"},
    "\ud800 key": 1,
    "k" * 100_000: 1,
}


def test_no_value_of_an_attribute_costs_a_span_or_the_program(tracer: Tracer, isolated: Path) -> None:
    """NaN, bytes, surrogates, 50 MB, cycles, a million levels, methods that raise: every span is stored."""
    provider = process.get_pipeline()
    for number, (key, value) in enumerate(ODD.items()):
        span = tracer.start_span(f"odd {number}")
        # The SDK refuses most of these; other libraries build spans that hold them.
        attributes: Any = vars(span)["_attributes"]
        attributes._dict[key] = value
        began = time.thread_time()
        span.end()
        assert time.thread_time() - began < 0.2
    account = account_at_rest()
    lost = account.lost.pop("redactor_failed", 0)
    assert account.produced == len(ODD)
    assert account.stored + lost == len(ODD)
    assert lost <= 1  # SystemExit out of __str__
    assert provider.worker.is_alive()
    names = stored(isolated)
    assert len(names) == account.stored
    assert all(len(text) < MAX_SPAN_BYTES for text in names.values())
    assert Slow.asked_by == "agentlightning-worker"


def test_a_span_whose_value_layer_fails_is_dropped(
    tracer: Tracer, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted ``redactor_failed`` and never stored as it is; the next one is stored."""
    from agentlightning.pipeline.redaction.scan import ValueScanner

    secret = "ghp_" + "z9Y8x7W6v5U4" * 3
    find = ValueScanner.find

    def failing(self: ValueScanner, data: bytes) -> Any:
        if secret.encode() in data:
            raise RuntimeError("injected")
        return find(self, data)

    monkeypatch.setattr(ValueScanner, "find", failing)
    tracer.start_span("bad", attributes={"x": f"use {secret}"}).end()
    tracer.start_span("good", attributes={"x": "nothing"}).end()
    account = account_at_rest()
    assert account.lost == {"redactor_failed": 1}
    assert list(stored(isolated)) == ["good"]
    assert not [path for path in isolated.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
