"""The program's own tracer provider is joined, never replaced, and its exporter sees what it would see alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PREAMBLE = """
import asyncio, gc, json, os, sys
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from agentlightning import OtelTracer, emit_reward, flush, open_store

def own(**options):
    provider = TracerProvider(resource=Resource({"service.name": "mine"}), **options)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter

def emit(name, tracer=None):
    with (tracer or trace.get_tracer("program")).start_as_current_span(name) as span:
        span.set_attribute("a", 1)

def stored():
    flush(5)
    async def read():
        store = open_store()
        spans = []
        for rollout in await store.query_newest_rollouts(children=True):
            spans += await store.query_spans(rollout.rollout_id)
        return sorted((s.name, s.resource.attributes.get("service.name"), s.attributes) for s in spans)
    return asyncio.run(read())

def names():
    return [name for name, _, _ in stored()]

def exported(exporter):
    return sorted(span.name for span in exporter.get_finished_spans())
"""


def outcome(code: str, folder: Path, **environment: str) -> Any:
    """Run a program and return what it prints as JSON; its stderr may hold only what OpenTelemetry tells it."""
    command = [sys.executable, "-W", "error", "-c", PREAMBLE + code]
    variables = {**os.environ, **environment}
    end = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60, cwd=folder, env=variables)
    assert end.returncode == 0, end.stderr
    own = ("Attributes dict is full", "Processor is already shutdown")  # the program's own SDK to the program
    assert [line for line in end.stderr.splitlines() if not line.startswith(own)] == []
    return json.loads(end.stdout)


SET = {
    "before ours": "trace.set_tracer_provider(provider); tracer = OtelTracer(); tracer.init()",
    "after ours": "tracer = OtelTracer(); tracer.init(); trace.set_tracer_provider(provider)",
    "by a name that was imported": (
        "from opentelemetry.trace import set_tracer_provider; tracer = OtelTracer(); tracer.init()\n"
        "set_tracer_provider(provider)"
    ),
}


@pytest.mark.parametrize("when", SET)
def test_provider_of_the_program_is_joined(tmp_path: Path, when: str) -> None:
    """It stays the global one, whenever it is set; every span is stored once, and exported once and unchanged."""
    found = outcome(
        f"""
provider, exporter = own()
{SET[when]}
emit("free")
with tracer.trace_context("x") as processor:
    emit("inside")
print(json.dumps([trace.get_tracer_provider() is provider, stored(), exported(exporter),
    [span.name for span in processor.spans()], [dict(s.resource.attributes) for s in exporter.get_finished_spans()]]))
""",
        tmp_path,
    )
    is_kept, stored, exported, seen, resources = found
    assert is_kept
    assert [(name, service) for name, service, _ in stored] == [("free", "mine"), ("inside", "mine")]
    assert exported == ["free", "inside"]
    assert seen == ["inside"]
    assert resources == [{"service.name": "mine"}] * 2


def test_providers_that_come_and_go(tmp_path: Path) -> None:
    """Test suites put another provider in place again and again: each span is stored once, whichever is in place."""
    found = outcome(
        """
import opentelemetry.trace as api
OtelTracer().init()
def put(provider):
    api._TRACER_PROVIDER_SET_ONCE._done = False
    api._TRACER_PROVIDER = None
    api.set_tracer_provider(provider)
(one, first), (two, second) = own(), own()
for turn in range(3):
    put(one); emit(f"one-{turn}")
    put(two); emit(f"two-{turn}")
print(json.dumps([names(), exported(first), exported(second)]))
""",
        tmp_path,
    )
    ones, twos = [f"one-{n}" for n in range(3)], [f"two-{n}" for n in range(3)]
    assert found == [ones + twos, ones, twos]


def test_limits_of_the_program_are_its_own(tmp_path: Path) -> None:
    """Attributes that the program's provider dropped are counted on the span; ours keeps them all."""
    found = outcome(
        """
provider, exporter = own(span_limits=SpanLimits(max_span_attributes=10))
trace.set_tracer_provider(provider)
OtelTracer().init()
with trace.get_tracer("x").start_as_current_span("small") as span:
    for number in range(30): span.set_attribute(f"k{number}", number)
print(json.dumps(stored()))
""",
        tmp_path,
    )
    ((_, _, attributes),) = found
    assert attributes["agentlightning.dropped_attributes"] == 20
    found = outcome(
        """
OtelTracer().init()
with trace.get_tracer("x").start_as_current_span("big") as span:
    for number in range(3000): span.set_attribute(f"k{number}", number)
print(json.dumps(stored()))
""",
        tmp_path,
        AGL_STORE=str(tmp_path / "other.db"),
    )
    assert len(found[0][2]) == 3000


def test_sampler_of_the_program_decides(tmp_path: Path) -> None:
    """A span that the program's sampler drops is nowhere: not stored, not exported, not collected."""
    found = outcome(
        """
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
provider, exporter = own(sampler=ALWAYS_OFF)
trace.set_tracer_provider(provider)
tracer = OtelTracer()
with tracer.trace_context("x") as processor: emit("dropped")
print(json.dumps([names(), exported(exporter), len(processor.spans())]))
""",
        tmp_path,
    )
    assert found == [[], [], 0]


def test_flush_and_shutdown_of_the_program(tmp_path: Path) -> None:
    """After the program shut its provider down, or flushed it, what it wrote is stored; other rollouts go on."""
    found = outcome(
        """
provider, exporter = own()
trace.set_tracer_provider(provider)
tracer = OtelTracer(); tracer.init()
emit("first")
flushed = provider.force_flush(1000)
async def read():
    store = open_store()
    return sum([len(await store.query_spans(r.rollout_id)) for r in await store.query_newest_rollouts()])
durable = asyncio.run(read())
provider.shutdown()
emit_reward(1.0)
print(json.dumps([flushed, durable, "first" in names()]))
""",
        tmp_path,
    )
    assert found == [True, 1, True]


def test_flush_of_the_program_does_not_fail_with_our_store(tmp_path: Path) -> None:
    """A store that hangs holds the program's flush up for the flush timeout at most, and does not make it fail."""
    found = outcome(
        """
import sqlite3, time
provider, exporter = own()
trace.set_tracer_provider(provider)
tracer = OtelTracer(); tracer.init()
emit("first"); flush(5)
lock = sqlite3.connect(os.environ["AGL_STORE"], isolation_level=None); lock.execute("BEGIN IMMEDIATE")
behind = InMemorySpanExporter(); provider.add_span_processor(SimpleSpanProcessor(behind))
emit("second")
started = time.monotonic(); flushed = provider.force_flush(10_000); seconds = time.monotonic() - started
lock.execute("ROLLBACK")
print(json.dumps([flushed, seconds < 3, exported(behind)]))
""",
        tmp_path,
    )
    assert found == [True, True, ["second"]]


def test_program_that_only_knows_the_api(tmp_path: Path) -> None:
    """A program that uses the OpenTelemetry API alone gets our provider, and no log line of the SDK that it lacks."""
    found = outcome(
        """
OtelTracer().init()
with trace.get_tracer("x").start_as_current_span("a") as span:
    span.set_attribute("wrong", object()); span.set_attribute("none", None)
span.end(); span.set_attribute("late", 1)
print(json.dumps(names()))
""",
        tmp_path,
    )
    assert found == ["a"]


def test_switched_off(tmp_path: Path) -> None:
    """With AGL_ENABLED=0 a context yields an empty processor, and no provider, patch, thread or store is made."""
    found = outcome(
        """
import threading
before = threading.Thread.start, trace._TRACER_PROVIDER, sys.meta_path[:], threading.active_count()
tracer = OtelTracer(); tracer.init()
with tracer.trace_context("x") as processor:
    emit("a"); emit_reward(1.0)
after = threading.Thread.start, trace._TRACER_PROVIDER, sys.meta_path[:], threading.active_count()
exists = os.path.exists(os.environ["AGL_STORE"])
print(json.dumps([before == after, len(processor.spans()), processor.force_flush(), exists]))
""",
        tmp_path,
        AGL_ENABLED="0",
    )
    assert found == [True, 0, True, False]


def test_setting_that_holds_nonsense(tmp_path: Path) -> None:
    """A wrong AGL_* variable in a program that uses the package never breaks or spams it; the block runs."""
    for name in ("AGL_ENABLED", "AGL_LOG_LEVEL", "AGL_QUEUE_BYTES", "AGL_SIGTERM", "AGL_INSTRUMENT"):
        found = outcome(
            """
tracer = OtelTracer(); tracer.init()
for turn in range(3):
    with tracer.trace_context("x") as processor:
        emit("a"); emit_reward(1.0)
print(json.dumps("ran"))
""",
            tmp_path,
            **{name: "nonsense"},
        )
        assert found == "ran"
