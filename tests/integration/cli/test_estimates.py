"""agl cost and agl ls where spans were sampled: estimates that say so, beside what was recorded."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

from agentlightning import semconv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import Agl, Writer


def test_sampled_calls_stand_for_more(agl: Agl, writer: Writer) -> None:
    """One call that was kept at 0.1 and one that was kept for sure are eleven calls, and cost as much as eleven."""
    sampled = writer.call("a", more={semconv.INCLUSION: 0.1})
    writer.write(sampled)
    writer.write(writer.call("b"))
    whole = json.loads(agl("cost", "--json"))["total"]
    one = float(whole["usd"]) / 2
    assert whole["calls"] == 2
    assert whole["estimate"]["sampled_calls"] == 1
    assert abs(whole["estimate"]["calls"] - 11) < 1e-9
    assert abs(float(whole["estimate"]["usd"]) - 11 * one) < 1e-12
    assert abs(whole["estimate"]["tokens"]["fresh"] - 11 * whole["tokens"]["fresh"] / 2) < 1e-6
    out = agl("cost")
    assert "~11" in out
    assert "estimate: 1 of 2 recorded calls were sampled and stand for 10" in out
    listed = agl("ls", "--no-pager")
    assert "Sampled: in all about 11 calls" in listed
    rollouts = {entry["rollout_id"]: entry["totals"] for entry in json.loads(agl("ls", "--json"))["rollouts"]}
    assert abs(rollouts["ro-a"]["estimate"]["calls"] - 10) < 1e-9
    assert "estimate" not in rollouts["ro-b"]


def test_nothing_sampled_says_nothing_of_estimates(agl: Agl, writer: Writer) -> None:
    """The figures of a store that holds everything are exact, and look it."""
    writer.write(writer.call("a"))
    assert json.loads(agl("cost", "--json"))["total"]["estimate"] is None
    assert "~" not in agl("cost")
    assert "Sampled" not in agl("ls", "--no-pager")


def test_a_trace_that_a_tail_rule_keeps_counts_once(agl: Agl, writer: Writer) -> None:
    """Its spans were kept by chance too, but would have been there in any case."""
    call = writer.call("a", more={semconv.INCLUSION: 0.1})
    writer.write(call, writer.span("a", semconv.SAMPLING, {semconv.SAMPLING_REASON: "error"}))
    assert json.loads(agl("cost", "--json"))["total"]["estimate"] is None


def test_children_decide_as_their_parent(tmp_path: Path) -> None:
    """Six rollouts, each with a child process: both halves of a trace are there, or none."""
    code = """
import subprocess, sys
import agentlightning
agentlightning.configure(sample_rate=0.5)
tracer = agentlightning.OtelTracer()
child = "from agentlightning.tracer.provider import get_tracer; get_tracer().start_span('child').end()"
from agentlightning.tracer.provider import get_tracer
for _ in range(6):
    with tracer.trace_context("r"), get_tracer().start_as_current_span("parent"):
        subprocess.run([sys.executable, "-c", child], check=True)
"""
    environment = {**os.environ, "AGL_STORE": str(tmp_path / "x.db")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    connection = sqlite3.connect(tmp_path / "x.db")
    found = connection.execute("SELECT trace_id, name FROM spans WHERE end_ns IS NOT NULL").fetchall()
    connection.close()
    traces = {trace for trace, _ in found}
    assert sorted(found) == sorted((trace, name) for trace in traces for name in ("child", "parent"))
