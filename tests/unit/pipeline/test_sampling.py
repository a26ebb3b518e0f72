"""Sampling: one decision for a trace, rules for single spans, tail rules, and totals without bias."""

from __future__ import annotations

import random
import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, Status, StatusCode, TraceFlags

from agentlightning import configure, emit_exception, emit_message, emit_reward, semconv, settings
from agentlightning._internal.context import RunningRollout
from agentlightning.errors import SettingError
from agentlightning.pipeline import process, sampling, tail
from agentlightning.pipeline.ledger import Ledger
from agentlightning.tracer import provider as provider_module
from agentlightning.tracer.children import child_environment
from agentlightning.tracer.otel import OtelTracer
from agentlightning.tracer.processor import CaptureProcessor
from agentlightning.types.query import SpanFacts, SpanRow
from agentlightning.view.bill import bills, merged
from agentlightning.view.facts import facts
from agentlightning.view.tree import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.trace import Tracer
    from tests.unit.pipeline.conftest import MakeRecord

ERROR = Status(StatusCode.ERROR)


@pytest.fixture(name="tracer")
def _tracer(own_pipeline: None) -> Iterator[Tracer]:
    """Return a tracer of our own provider, whose spans go through a pipeline of their own."""
    yield provider_module.get_tracer("test")
    while sampling.lowered() < 1:
        sampling.lower(busy=False)


def rows(home: Path) -> list[tuple[str, float | None, str | None]]:
    """Return name, probability and parent of the ended spans in the store."""
    process.flush(10)
    connection = sqlite3.connect(home / "agentlightning.db")
    column = f"json_extract(attributes, '$.\"{semconv.INCLUSION}\"')"
    try:
        return list(connection.execute(f"SELECT name, {column}, parent_id FROM spans WHERE end_ns IS NOT NULL"))
    finally:
        connection.close()


def adds_up() -> None:
    """Check the ledger."""
    account = process.account()
    assert account.produced == account.stored + account.duplicate + account.waiting + account.total_lost


@given(rate=st.floats(0.001, 1), lower=st.floats(0.001, 1), trace=st.integers(1, 2**128 - 1))
def test_a_lower_rate_keeps_a_part_of_what_a_higher_one_keeps(rate: float, lower: float, trace: int) -> None:
    """Nested decisions: whoever samples less never has a trace that others lack."""
    low, high = sorted((rate, lower))
    verdicts = [
        sampling.Policy(one, (), None).decide("work", None, trace, INVALID_SPAN_CONTEXT, None) for one in (low, high)
    ]
    assert not (verdicts[0].lost == "" and verdicts[1].lost)
    assert verdicts[0].probability == pytest.approx(low, rel=1e-9)


@given(rate=st.floats(0.0, 0.999), trace=st.integers(1, 2**128 - 1))
def test_the_decision_travels_in_tracestate(rate: float, trace: int) -> None:
    """A child in another process, with another rate, decides as its parent did and knows the probability."""
    first = sampling.Policy(rate, (), None).decide("root", None, trace, INVALID_SPAN_CONTEXT, None)
    flags = TraceFlags(TraceFlags.SAMPLED if not first.lost else TraceFlags.DEFAULT)
    parent = SpanContext(trace, 1, is_remote=True, trace_flags=flags, trace_state=first.state)
    second = sampling.Policy(0.5, (), None).decide("child", None, trace, parent, None)
    assert (second.lost, second.probability) == (first.lost, first.probability)


def test_whole_traces_are_kept_or_not(tracer: Tracer, isolated: Path) -> None:
    """At 0.2 about a fifth of the traces, each whole and with its probability; what is not kept is counted."""
    configure(sample_rate=0.2)
    for _ in range(500):
        with tracer.start_as_current_span("root") as root:
            with tracer.start_as_current_span("child"):
                emit_message("inside")
            assert root.is_recording() == root.get_span_context().trace_flags.sampled
    found = rows(isolated)
    names = [name for name, _, _ in found]
    roots = names.count("root")
    assert 60 < roots < 145
    assert names.count("child") == names.count("agentlightning.message") == roots
    assert {probability for _, probability, _ in found} == {0.2}
    account = process.account()
    assert account.lost == {"sampled": 1500 - 3 * roots}
    adds_up()


def test_rewards_and_exceptions_are_never_sampled_away(tracer: Tracer, isolated: Path) -> None:
    """At rate 0 they are stored with their rollout and without the parent that is nowhere."""
    configure(sample_rate=0.0)
    with OtelTracer().trace_context("r"), tracer.start_as_current_span("root"):
        emit_reward(0.5)
        emit_exception(ValueError("x"))
        emit_message("not this one")
    assert sorted(rows(isolated)) == [
        ("agentlightning.exception", None, None),
        ("agentlightning.reward", None, None),
    ]
    connection = sqlite3.connect(isolated / "agentlightning.db")
    assert connection.execute("SELECT count(DISTINCT rollout_id), max(implicit) FROM rollouts").fetchone() == (1, 0)
    connection.close()
    assert process.account().lost == {"sampled": 2}


def test_a_change_holds_for_traces_that_begin_later(tracer: Tracer, isolated: Path) -> None:
    """``configure`` while a trace runs splits no trace."""
    with tracer.start_as_current_span("early"):
        configure(sample_rate=0.0)
        with tracer.start_as_current_span("early child"):
            pass
    with tracer.start_as_current_span("late"):
        configure(sample_rate=1.0)
        with tracer.start_as_current_span("late child"):
            pass
    assert sorted(name for name, _, _ in rows(isolated)) == ["early", "early child"]


def test_a_change_holds_for_rollouts_that_begin_later(tracer: Tracer, isolated: Path) -> None:
    """All spans of a rollout, its further roots too, are sampled at the rate with which it began."""
    with OtelTracer().trace_context("early"):
        configure(sample_rate=0.0)
        tracer.start_span("kept").end()
        emit_message("kept too")
    with OtelTracer().trace_context("late"):
        configure(sample_rate=1.0)
        tracer.start_span("left out").end()
        emit_message("left out too")
    assert sorted(name for name, _, _ in rows(isolated)) == ["agentlightning.message", "kept"]


def test_rules_decide_on_single_spans(tracer: Tracer, isolated: Path) -> None:
    """By name and attribute, also one that is set later; drop is ``filtered``, a rate gives the probability."""
    configure(sample_rules="noise*=drop; @tool.name:search*=drop; chatty=0.5; plan=keep")
    for _ in range(200):
        with tracer.start_as_current_span("root"):
            tracer.start_span("noise 1").end()
            tracer.start_span("tool", attributes={"tool.name": "searcher"}).end()
            late = tracer.start_span("late tool")
            late.set_attribute("tool.name", "search")
            late.end()
            tracer.start_span("chatty").end()
            tracer.start_span("tool", attributes={"tool.name": "other"}).end()
    found = rows(isolated)
    names = [name for name, _, _ in found]
    assert (names.count("root"), names.count("tool")) == (200, 200)
    assert {(name, probability) for name, probability, _ in found} == {("root", None), ("tool", None), ("chatty", 0.5)}
    assert 60 < names.count("chatty") < 140
    assert process.account().lost == {"filtered": 600, "sampled": 200 - names.count("chatty")}
    adds_up()


def test_a_mark_on_a_span_overrides_all(tracer: Tracer, isolated: Path) -> None:
    """``agentlightning.keep`` False is filtered at any rate, True is kept at any rate."""
    tracer.start_span("no", attributes={semconv.KEEP: False}).end()
    configure(sample_rate=0.0)
    tracer.start_span("yes", attributes={semconv.KEEP: True}).end()
    tracer.start_span("no").end()
    assert [name for name, _, _ in rows(isolated)] == ["yes"]
    assert process.account().lost == {"filtered": 1, "sampled": 1}


@pytest.mark.parametrize("text", ["x", "x=", "x=2", "=1", "x=keep;y", "x=-1", "x=nan"])
def test_a_rule_that_cannot_be_read_is_an_error_at_once(text: str) -> None:
    """``configure`` raises, and changes nothing."""
    with pytest.raises(SettingError):
        configure(sample_rules=text)
    assert settings.get(settings.SAMPLE_RULES) == ""


@pytest.mark.usefixtures("tracer")
def test_a_provider_of_the_program_s_is_sampled_too(isolated: Path) -> None:
    """Its own exporters see every span; ours are whole traces, with their probability."""
    configure(sample_rate=0.3)
    theirs = TracerProvider(shutdown_on_exit=False)
    seen: list[str] = []

    class Exporter(CaptureProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            pass

        def on_end(self, span: Any) -> None:
            seen.append(span.name)

    theirs.add_span_processor(CaptureProcessor({}, stamping=True))
    theirs.add_span_processor(Exporter({}, stamping=True))
    joined = theirs.get_tracer("theirs")
    for _ in range(200):
        with joined.start_as_current_span("root"):
            joined.start_span("child").end()
    found = rows(isolated)
    assert len(seen) == 400
    assert 40 < len(found) == 400 - process.account().lost["sampled"] < 240
    assert sum(name == "root" for name, _, _ in found) == len(found) / 2
    assert {probability for _, probability, _ in found} == {0.3}


def test_children_share_the_decision(tracer: Tracer) -> None:
    """What ``configure`` said, or the rollout began with, goes to child processes; a default needs nothing."""
    assert child_environment() is None
    configure(sample_rate=0.25, tail_errors=True, sample_rules="a=drop")
    with OtelTracer().trace_context("r"), tracer.start_as_current_span("root"):
        configure(sample_rate=0.75)
        variables = child_environment() or {}
    assert variables["AGL_SAMPLE_RATE"] == "0.25"
    assert variables["AGL_TAIL_ERRORS"] == "True"
    assert settings.TAIL_ERRORS.parse(variables["AGL_TAIL_ERRORS"], "test")
    assert variables["AGL_SAMPLE_RULES"] == "a=drop"


@pytest.mark.parametrize("rule", ["tail_errors", "tail_rewards", "tail_slow_s", "tail_cost_usd"])
def test_a_tail_rule_keeps_the_whole_trace(tracer: Tracer, isolated: Path, rule: str) -> None:
    """What came before and what comes after, with probability 1; other traces are let go and counted."""
    configure(sample_rate=0.0, tail_wait_s=0, **{rule: {"tail_slow_s": 5.0, "tail_cost_usd": 0.5}.get(rule, True)})
    for number in range(20):
        hit = number % 10 == 0
        with tracer.start_as_current_span("root"):
            tracer.start_span("before").end()
            middle = tracer.start_span(
                "middle",
                start_time=1_000_000_000,
                attributes={"openinference.span.kind": "LLM", "llm.cost.total": 0.9 if hit else 0.1},
            )
            if hit and rule == "tail_errors":
                middle.set_status(ERROR)
            middle.end(end_time=1_000_000_000 + (6_000_000_000 if hit else 1_000_000))
            if hit and rule == "tail_rewards":
                emit_reward(1.0)
            tracer.start_span("after").end()
    process.flush(10)
    found = rows(isolated)
    names = [name for name, _, _ in found]
    assert [names.count(name) for name in ("root", "before", "middle", "after")] == [2, 2, 2, 2]
    assert names.count(semconv.SAMPLING) == 2
    assert {probability for _, probability, _ in found} == {None}
    process.get_pipeline().worker.let_go(1)
    account = process.account()
    assert account.lost == {"sampled": 72}
    assert account.waiting == 0
    adds_up()


def test_held_spans_are_bounded(make_record: MakeRecord) -> None:
    """Beyond ``tail_bytes`` the oldest trace goes, counted; a late span of it follows, an error in it is kept."""
    configure(tail_bytes=2**16)
    ledger = Ledger(None)
    numbers = iter(range(10_000, 20_000))
    buffer = tail.Tail(ledger, lambda: next(numbers))
    rules = sampling.TailRules(errors=True, rewards=False, slow_ns=0, cost_usd=0)
    for number in range(100):
        assert not buffer.admit(make_record(trace_id=f"{number:032x}"), rules, unsampled=True)
        assert buffer.bytes <= 2**16
    kept = buffer.waiting()
    assert ledger.account().lost == {"sampled": 100 - kept}
    assert not buffer.admit(make_record(trace_id=f"{0:032x}"), rules, unsampled=True)
    assert ledger.account().lost == {"sampled": 101 - kept}
    bad = make_record(trace_id=f"{0:032x}", status_code="ERROR")
    assert [record.name for record in buffer.admit(bad, rules, unsampled=True)] == [bad.name, semconv.SAMPLING]


def test_lowering_never_touches_the_rollouts_of_a_trainer(tracer: Tracer) -> None:
    """A rollout that somebody else made keeps its rate; one that the program makes begins with the lower one."""
    _ = tracer
    sampling.lower(busy=True)
    assert sampling.rate_of_rollout(given=True) == 1.0
    assert sampling.rate_of_rollout(given=False) == 0.5
    given = RunningRollout("ro", "at", 1, sample_rate=1.0)
    verdict = sampling.policy().decide("work", None, 1, INVALID_SPAN_CONTEXT, given)
    assert (verdict.lost, verdict.probability) == ("", 1.0)
    assert sampling.policy().decide("work", None, 1, INVALID_SPAN_CONTEXT, None).lost == "sampled"
    assert sampling.lower(busy=False) == 1.0


def _row(number: int, inclusion: float | None, tokens: int, name: str = "call") -> SpanRow:
    """Return a call in a trace of its own."""
    found = SpanFacts(kind="llm", model="gpt-4o-mini", provider="openai", fresh_tokens=tokens, output_tokens=tokens)
    found.inclusion = inclusion
    return SpanRow(
        trace_id=f"{number:032x}", span_id=f"{number:016x}", parent_id=None, rollout_id="ro", attempt_id="at",
        sequence_id=number + 1, name=name, start_ns=1_700_000_000 * 10**9, end_ns=1_700_000_001 * 10**9,
        status_code="OK", status_description=None, process="p", facts=found,
    )  # fmt: skip


def test_totals_are_unbiased() -> None:
    """300 samples of 400 calls of mixed sizes, rules and tail rules: the mean is the truth within 3 errors."""
    draw = random.Random(4)
    sizes = [draw.choice([10, 100, 5_000]) for _ in range(400)]
    truth = 2 * sum(sizes)
    rules = {10: sampling.Policy(0.1, (), None), 100: sampling.Policy(0.4, (), None), 5_000: None}
    full = merged(bills(build([_row(n, None, size) for n, size in enumerate(sizes)]).walk(), lambda _node: "").values())
    tokens: list[float] = []
    usd: list[float] = []
    for _ in range(300):
        kept: list[SpanRow] = []
        for number, size in enumerate(sizes):
            policy, trace = rules[size], draw.getrandbits(128)
            if policy is None:  # a tail rule keeps every costly call: sampled or not, it is there for sure
                kept += [_row(number, 0.1 if trace % 10 == 0 else None, size), _row(number, None, 0, semconv.SAMPLING)]
                kept[-1].facts, kept[-1].span_id = SpanFacts(), f"{number + 10_000:016x}"
                continue
            verdict = policy.decide("call", None, trace, INVALID_SPAN_CONTEXT, None)
            if not verdict.lost:
                kept.append(_row(number, verdict.probability, size))
        view = build(kept)
        bill = merged(bills(view.walk(), lambda _node: "").values())
        assert view.totals.estimated_tokens == pytest.approx(
            bill.estimated_tokens("fresh") + bill.estimated_tokens("output")
        )
        tokens.append(view.totals.estimated_tokens)
        usd.append(float(bill.estimated_usd))
    for samples, wanted in ((tokens, float(truth)), (usd, float(full.usd))):
        mean = sum(samples) / len(samples)
        deviation = (sum((sample - mean) ** 2 for sample in samples) / (len(samples) - 1)) ** 0.5
        assert deviation > 0
        assert abs(mean - wanted) < 3 * deviation / len(samples) ** 0.5
    assert full.estimated_usd == full.usd > Decimal(0)


def test_a_probability_that_is_none_counts_as_absent() -> None:
    """Whatever the attribute holds, the weight is finite and at least 1."""
    for value in (0, 1, 1.0, -1, 2, "x", float("nan"), True, None):
        assert facts("x", {semconv.INCLUSION: value}).inclusion is None
    assert facts("x", {semconv.INCLUSION: 0.25}).inclusion == 0.25
