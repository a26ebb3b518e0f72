"""A receipt says what became of its span, and says so truthfully however the span ends."""

from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning import OtelTracer, configure
from agentlightning._internal.guard import failures
from agentlightning.emitter import (
    MessageEvent,
    RewardEvent,
    add_event_handler,
    emit_event,
    emit_message,
    finish_handlers,
    register_event_type,
    remove_event_handler,
)
from agentlightning.emitter.handler import MAX_WAITING
from agentlightning.errors import StoreUnavailableError
from agentlightning.pipeline import process, receipt
from agentlightning.pipeline.redaction import Redactor
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.tracer.provider import providers

if TYPE_CHECKING:
    from tests.integration.pipeline.conftest import Programs

    from agentlightning.emitter import CustomEvent

pytestmark = pytest.mark.usefixtures("quiet", "own_pipeline")


def adds_up() -> dict[str, int]:
    """Check that every span that was produced is accounted for, and return the losses."""
    account = process.account()
    assert account.produced == account.stored + account.duplicate + account.waiting + account.total_lost
    return account.lost


def test_a_stored_event_is_stored() -> None:
    """Waiting returns once the span is committed, without a flush, and again at once."""
    found = emit_event(MessageEvent("hi"))
    assert found.wait(10) == ("stored", "")
    assert found.wait(0) == found.outcome == ("stored", "")
    assert found.span is not None
    assert found.span.name == "agentlightning.message"
    assert adds_up() == {}


def test_many_receipts_are_settled_from_many_threads() -> None:
    """Each of 1,000 receipts, waited for by eight threads, learns of its own span."""
    outcomes: list[str] = []

    def work() -> None:
        kept = [emit_event(MessageEvent(str(number))) for number in range(125)]
        outcomes.extend(one.wait(10).state for one in kept)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["stored"] * 1000


def test_nobody_waits_nothing_stays() -> None:
    """A receipt that is thrown away leaves nothing behind, and spans without one never enter the table."""
    table: dict[int, Any] = vars(receipt)["_receipts"]
    for number in range(100):
        emit_event(MessageEvent(str(number)))
        emit_message(str(number))
    gc.collect()
    assert table == {}


@pytest.mark.parametrize(
    ("settings", "arguments", "reason"),
    [
        ({"sample_rate": 0.0}, {}, "sampled"),
        ({}, {"keep": False}, "filtered"),
        ({"sample_rules": "agentlightning.mes*=drop"}, {}, "filtered"),
        ({"max_value_bytes": 1_048_576}, {"target": object()}, "invalid"),
    ],
    ids=["sampled", "filtered", "rule", "invalid"],
)
def test_an_event_that_is_not_kept_says_why(settings: dict[str, Any], arguments: dict[str, Any], reason: str) -> None:
    """What is sampled away, filtered by a mark or a rule, or invalid is dropped with its reason, and counted."""
    configure(**settings)
    found = emit_event(MessageEvent("hi"), **arguments)
    assert found.wait(5) == ("dropped", reason)
    process.flush(5)
    assert adds_up() == {"rejected" if reason == "invalid" else reason: 1}


class NoEvent:
    """An object whose every attribute is an error."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize("thing", [None, 5, MessageEvent, NoEvent(), b""], ids=lambda thing: type(thing).__name__)
def test_what_is_no_event_is_the_program_s_mistake(thing: Any) -> None:
    """It is dropped as invalid and counted, and is no failure of ours."""
    assert emit_event(thing).wait(5) == ("dropped", "invalid")
    assert adds_up() == {"rejected": 1}
    assert failures.counts() == {}


def test_data_beside_an_event_are_not_silently_ignored() -> None:
    """An event has its own attributes; data with it are a mistake that the receipt tells."""
    assert emit_event(MessageEvent("a"), {"message": "b"}).wait(5) == ("dropped", "invalid")


def test_rewards_are_kept_whatever_the_rate() -> None:
    """A reward that is emitted as an event is never sampled away."""
    configure(sample_rate=0.0)
    assert emit_event(RewardEvent(1.0)).wait(10).state == "stored"


def test_disabled_capture_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With capture off nothing is recorded, and the receipt says so."""
    monkeypatch.setenv("AGL_ENABLED", "0")
    found = emit_event(MessageEvent("hi"))
    assert (found.wait(), found.span) == (("dropped", "disabled"), None)


def test_a_failure_of_ours_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where our own code fails, the event is dropped as failed, and the failure is counted."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("agentlightning.emitter.emit.emit_span", fail)
    assert emit_event(MessageEvent("hi")).wait(5) == ("dropped", "failed")
    assert failures.counts() == {"emitter.event": 1}


@pytest.mark.parametrize(
    "target", [(Redactor, "redact_all"), (SqliteWriter, "write_batch")], ids=["redactor", "record"]
)
def test_a_span_that_cannot_be_written_says_why(monkeypatch: pytest.MonkeyPatch, target: tuple[type, str]) -> None:
    """A span that is lost on its way is dropped with the reason that the ledger counts."""

    def fail(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(*target, fail)
    found = emit_event(MessageEvent("hi"))
    assert found.wait(10).state == "dropped"
    process.flush(5)
    assert adds_up() == {found.outcome.reason: 1}
    assert found.outcome.reason == ("redactor_failed" if target[0] is Redactor else "store_error")


def test_a_store_that_stays_away_spills_and_then_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is away the span is spilled; once it is back the same receipt says stored."""
    away = threading.Event()
    away.set()
    original = SqliteWriter.write_batch

    def write_batch(self: SqliteWriter, batch: Any) -> Any:
        if away.is_set():
            raise StoreUnavailableError
        return original(self, batch)

    monkeypatch.setattr(SqliteWriter, "write_batch", write_batch)
    first = emit_event(MessageEvent("first"))
    assert first.wait(0.2).state == "waiting"
    second = first
    while second.wait(0.3).state != "spilled":
        second = emit_event(MessageEvent("more"))
    assert first.wait(5) == ("spilled", "")
    away.clear()
    assert process.flush(10)
    assert (first.outcome.state, second.outcome.state) == ("stored", "stored")
    assert adds_up() == {}


def test_a_full_queue_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span that found no room in the queue is dropped as queue_full."""
    with OtelTracer().trace_context("x"):
        queue = process.get_pipeline().queue

        def put_ended(_: object) -> None:
            queue.refuse("queue_full")

        monkeypatch.setattr(queue, "put_ended", put_ended)
        assert emit_event(MessageEvent("hi")).wait(5) == ("dropped", "queue_full")


def test_a_forked_child_knows_nothing_of_the_parents_spans() -> None:
    """A receipt from before a fork is waiting elsewhere in the child, at once, and is settled in the parent."""
    reader, writer = os.pipe()
    before = emit_event(MessageEvent("parent"))
    pid = os.fork()
    if pid == 0:
        own = emit_event(MessageEvent("child"))
        os.write(writer, " ".join((*before.wait(5), own.wait(5).state)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    said = os.read(reader, 1000).decode()
    parents, childs = said.rsplit(" ", 1)
    assert parents in {"waiting other_process", "stored "}
    assert childs in {"stored", "spilled"}  # on a busy machine opening the store anew may take longer than its grace
    assert before.wait(10).state == "stored"


def test_the_end_of_the_program_settles_receipts(programs: Programs) -> None:
    """A receipt that is asked for after everything was flushed at exit, or with a dead store, tells what happened."""
    code = """
import atexit
from agentlightning.emitter import MessageEvent, emit_event
kept = []
atexit.register(lambda: print(kept[0].wait(1).state, emit_event(MessageEvent("late")).wait(1).state))
kept.append(emit_event(MessageEvent("hi")))
"""
    assert programs.run(code) == "stored stored\n"


def test_spans_of_a_joined_provider_have_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program has a provider of its own, events take the SDK's way and receipts hold all the same."""
    provider = TracerProvider(shutdown_on_exit=False)
    providers.join(provider)
    monkeypatch.setattr("agentlightning.tracer.provider.get_provider", lambda: provider)

    def slow_way(*_: object) -> None:
        return None

    monkeypatch.setattr("agentlightning.tracer.provider.emit", slow_way)
    assert emit_event(MessageEvent("hi")).wait(10).state == "stored"
    assert emit_event(MessageEvent("hi"), keep=False).wait(10) == ("dropped", "filtered")


def test_handlers_see_recorded_events() -> None:
    """A handler gets each event of its type as it was stored, built-in kinds too; removed, it gets no more."""
    seen: list[CustomEvent] = []
    register_event_type("test.handled", handler=seen.append)
    add_event_handler("message", seen.append)
    emit_event("test.handled", {"password": "hunter2", "n": {"a": [1]}}).wait(10)
    emit_message("hi")
    process.flush(10)
    assert finish_handlers(10)
    remove_event_handler("message", seen.append)
    emit_event(MessageEvent("again")).wait(10)
    assert finish_handlers(10)
    first, second = seen
    assert (first.event_type, first.attributes["n"]) == ("test.handled", {"a": [1]})
    assert "hunter2" not in str(first.attributes)
    assert isinstance(second, MessageEvent)
    assert second.message == "hi"


def test_a_handler_that_hangs_delays_nobody() -> None:
    """While a handler hangs, events are stored as ever; beyond the bound its events are counted and not kept."""
    go_on = threading.Event()
    register_event_type("test.hang", handler=lambda _: go_on.wait(15))
    for _ in range(MAX_WAITING + 50):
        emit_event("test.hang", {})
    last = emit_event(MessageEvent("hi"))
    assert last.wait(10).state == "stored"
    assert not finish_handlers(0.0)
    go_on.set()
    assert finish_handlers(10)
    assert 1 <= failures.counts()["event.handler.full"] <= 50


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_handler_that_raises_is_counted(error: BaseException) -> None:
    """Whatever a handler raises is counted, and the next event reaches it again."""
    calls: list[int] = []

    def fail(_: CustomEvent) -> None:
        calls.append(1)
        raise error

    register_event_type(f"test.{type(error).__name__}", handler=fail)
    for _ in range(2):
        assert emit_event(f"test.{type(error).__name__}", {}).wait(10).state == "stored"
    assert finish_handlers(10)
    assert len(calls) == failures.counts()["event.handler"] == 2
