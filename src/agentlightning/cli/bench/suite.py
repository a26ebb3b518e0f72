"""The standard suite. Each part runs in a process of its own, with a store in a temporary folder; nothing is left.

Run as a module with the name of a part, the rounds and a size, it measures that part and prints its rows as JSON.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from opentelemetry.trace import use_span

from agentlightning.cli.bench import durable, ingest, measure, memory
from agentlightning.cli.bench.machine import machine, surrounding
from agentlightning.cli.bench.result import VERSION, Kind, Report, Row, row_of
from agentlightning.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LONGEST_S = 120.0
"""A part takes about 15 s at most."""


class Size(NamedTuple):
    """How much is measured; 15 rounds of all candidates take about 2 s."""

    calls: int
    """Rounds of the calls on the program's thread."""
    rounds: int
    """Rounds of the rest."""
    records: int
    spans: int
    memory_rounds: int
    memory_s: float


FULL = Size(calls=25, rounds=7, records=5_000, spans=4_000, memory_rounds=3, memory_s=2.0)
QUICK = Size(calls=5, rounds=3, records=1_000, spans=1_000, memory_rounds=1, memory_s=0.4)


def run(*, quick: bool, told: Callable[[str], object] = str) -> Report:
    """Measure everything; *told* is called with the name of each part before it is measured.

    Raises:
        StoreUnavailableError: A part failed; the message is the last line that it printed.
    """
    began = time.monotonic()
    rows: list[Row] = []
    for part in PARTS:
        told(part)
        rows.extend(_in_process(part, quick=quick))
    return Report(
        version=VERSION,
        type="bench",
        is_quick=quick,
        taken_s=round(time.monotonic() - began, 1),
        machine=machine(),
        rows=rows,
    )


def _in_process(part: str, *, quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder:
        command = [sys.executable, "-m", "agentlightning.cli.bench.suite", part, "quick" if quick else "full"]
        try:
            done = subprocess.run(  # noqa: S603 - this module
                command, env=surrounding(Path(folder)), cwd=folder, capture_output=True, check=False, timeout=_LONGEST_S
            )
        except subprocess.TimeoutExpired:
            msg = f"the part {part!r} of the benchmark took longer than {_LONGEST_S:g} s; try --quick"
            raise StoreUnavailableError(msg) from None
    if done.returncode:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        msg = f"the part {part!r} of the benchmark failed: {last}"
        raise StoreUnavailableError(msg)
    return msgspec.json.decode(done.stdout, type=list[Row])


def _calls(size: Size, folder: Path) -> Iterator[Row]:
    """Measure what a span, and each emitter, costs the thread that calls it."""
    _ = folder
    candidates = measure.Candidates()
    cpu = measure.compare(candidates, dict(candidates.span), measure.thread_time_us, size.calls, candidates.idle)
    pair = {name: candidates.span[name] for name in ("batch", "own")}
    wall = measure.compare(candidates, dict(pair), measure.wall_time_us, size.calls)
    with use_span(candidates.current):  # a reward is given inside a rollout
        emit = measure.compare(candidates, dict(candidates.emit), measure.thread_time_us, size.calls, candidates.idle)
    candidates.settle()
    span = "span of 20 attributes, CPU of the calling thread: "
    yield row_of(Kind("span", span + "ours / batch processor", "us"), cpu["own"], cpu["batch"])
    yield row_of(Kind("span_bare", span + "ours / SDK without a processor", "us"), cpu["own"], cpu["bare"])
    yield row_of(
        Kind("span_joined", span + "joined provider / SDK without a processor", "us"), cpu["joined"], cpu["bare"]
    )
    yield row_of(
        Kind("span_busy", "the same, wall time with the workers at work: ours / batch processor", "us"),
        wall["own"],
        wall["batch"],
    )
    named = {"own": "reward", "event": "event"}
    for name in ("own", "message", "event", "custom", "object", "exception"):
        label = {"custom": "emit_event of a custom type"}.get(name, f"emit_{named.get(name, name)}")
        kind = Kind(f"emit_{named.get(name, name)}", f"{label} / SDK span with batch processor, CPU", "us")
        yield row_of(kind, emit[name], emit["batch"])


def _durable(size: Size, folder: Path) -> Iterator[Row]:
    """Measure how fast spans become durable, how many of a burst do, and how long a flush takes."""
    spans = ingest.records(size.records, 1)
    pairs = [
        (
            ingest.in_fresh_folder(lambda at: ingest.ours(at, spans)),
            ingest.in_fresh_folder(lambda at: ingest.raw(at, spans)),
        )
        for _ in range(size.rounds)
    ]
    kind = Kind(
        "ingest", "spans of 1 KB into the store: its writer / bare insertion of the rows", "1/s", is_lower_better=False
    )
    yield row_of(kind, [mine for mine, _ in pairs], [theirs for _, theirs in pairs])
    both = durable.ways(folder)
    rates, kept = durable.burst(both, size.spans, size.rounds)
    what = "spans of 1 KB made by one thread, durable a second: ours / batch processor to a file"
    yield row_of(Kind("durable", what, "1/s", is_lower_better=False), rates["own"], rates["batch"])
    what = f"share of a burst of {size.spans:,} that is kept: ours / batch processor"
    yield row_of(Kind("kept", what, "", is_lower_better=False), kept["own"], kept["batch"])
    times = durable.flush_ms(both, size.rounds)
    what = "flush after one span until it is durable: ours / batch processor to a file"
    yield row_of(Kind("flush", what, "ms"), times["own"], times["batch"])


def _memory(size: Size, folder: Path) -> Iterator[Row]:
    """Measure what tracing adds to a program's peak of resident memory."""
    ours: list[float] = []
    peer: list[float] = []
    for number in range(size.memory_rounds):
        place = folder / str(number)
        place.mkdir()
        bare = memory.run(place, "bare", 1, 0.1)["peak_mb"]
        ours.append(memory.run(place, "traced", 1, size.memory_s)["peak_mb"] - bare)
        peer.append(memory.run(place, "batch", 1, size.memory_s)["peak_mb"] - bare)
    yield row_of(
        Kind("memory", "memory added to a program that makes spans all the time: ours / batch processor", "MB"),
        ours,
        peer,
    )


PARTS = {"calls": _calls, "durable": _durable, "memory": _memory}
"""By name, what yields the rows of a part; in the order in which they run."""


def main(part: str, size: str) -> None:
    """Measure one part in this process, whose environment names the store, and print its rows."""
    rows = list(PARTS[part](QUICK if size == "quick" else FULL, Path.cwd()))
    sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
