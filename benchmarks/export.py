"""Measure the export of many rollouts to triplets, in a process of its own.

Makes a store of 10,000 rollouts with 20 spans each: an agent, 6 model calls with 200 prompt and 50 response token ids,
12 tools and a reward. Then runs ``agl export --format triplets`` as a user does, and takes time and the largest
resident memory of that process. The peer is the same read without an export: every span of the store as a ``Span``.

Promise: under 60 s and under 500 MB.

Usage: python benchmarks/export.py [--rollouts 10000] [--format triplets] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentlightning import open_store
from agentlightning.semconv import LOGPROBS, PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS
from agentlightning.types.record import AttemptEnd, ResourceRecord, RolloutStart, SpanRecord, WriteBatch

LIMIT_S, LIMIT_MB = 60.0, 500.0
SPANS = 20
START_NS = 1_790_000_000 * 10**9
RESOURCE = ResourceRecord({"service.name": "benchmark"})
READ = """
import asyncio, sys
from agentlightning import open_store
async def read(url):
    store, count = open_store(url), 0
    for rollout in await store.query_rollouts():
        count += len(await store.query_spans(rollout.rollout_id))
    print(count)
asyncio.run(read(sys.argv[1]))
"""


def attributes(place: int) -> tuple[str, dict[str, object]]:
    """Return name and attributes of the span at *place*."""
    if place == 0:
        return "agent", {"openinference.span.kind": "AGENT", "agent.name": "solver"}
    if place == SPANS - 1:
        return "agentlightning.reward", {"reward": 0.5}
    if place % 3:
        return "tool", {"openinference.span.kind": "TOOL", "tool.name": "calculator", "output.value": "42"}
    return "chat", {
        "openinference.span.kind": "LLM",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 200,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "x" * 800}]}]),
        PROMPT_TOKEN_IDS: list(range(200)),
        RESPONSE_TOKEN_IDS: list(range(50)),
        LOGPROBS: [-0.125] * 50,
    }


def fill(url: str, rollouts: int) -> None:
    """Write the rollouts."""
    store = open_store(url)
    for first in range(0, rollouts, 50):
        batch = WriteBatch()
        for number in range(first, min(rollouts, first + 50)):
            rollout, attempt = f"ro-{number:016x}", f"at-{number:016x}"
            at_ns = START_NS + number * 10**9
            batch.starts.append(
                RolloutStart(rollout_id=rollout, attempt_id=attempt, project="default", input=number, start_ns=at_ns)
            )
            for place in range(SPANS):
                name, given = attributes(place)
                begin_ns = at_ns + place * 10**6
                batch.spans.append(
                    SpanRecord(
                        rollout_id=rollout,
                        attempt_id=attempt,
                        counter=number * SPANS + place + 1,
                        trace_id=f"{number + 1:032x}",
                        span_id=f"{number * SPANS + place + 1:016x}",
                        parent_id=None if place == 0 else f"{number * SPANS + 1:016x}",
                        name=name,
                        start_ns=begin_ns,
                        end_ns=at_ns + 10**8 if place == 0 else begin_ns + 10**5,
                        attributes=given,
                        resource=RESOURCE,
                    )
                )
            end = AttemptEnd(rollout_id=rollout, attempt_id=attempt, status="succeeded", end_ns=at_ns + 10**8)
            batch.ends.append(end)
        store.write_batch(batch)
    store.close()


def timed(command: list[str]) -> tuple[float, float, str]:
    """Run *command*; return seconds, the largest resident memory in MB, and what it said on stderr."""
    start = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        said = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        msg = f"{command[:4]} ended with {process.returncode}: {said[-300:]}"
        raise RuntimeError(msg)
    return time.monotonic() - start, usage.ru_maxrss / 1024, said


def main() -> int:
    """Measure, print, and say whether the promise holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--format", default="triplets")
    parser.add_argument("--json", metavar="FILE")
    chosen = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.db"
        fill(url, chosen.rollouts)
        out = Path(folder) / "out"
        agl = [sys.executable, "-m", "agentlightning.cli", "export", "--store", url]
        seconds, megabytes, said = timed([*agl, "--format", chosen.format, "-o", str(out)])
        bare_s, bare_mb, _ = timed([sys.executable, "-c", READ, url])
        size_mb = out.stat().st_size / 1e6
    lines = said.strip().splitlines()
    print(f"{chosen.rollouts:,} rollouts of {SPANS} spans to {chosen.format}: {lines[0]}")
    print(
        f"time    {seconds:6.1f} s  (at most {LIMIT_S:.0f}); {seconds / bare_s:.2f} of reading alone ({bare_s:.1f} s)"
    )
    print(
        f"memory  {megabytes:6.0f} MB (at most {LIMIT_MB:.0f}); reading alone {bare_mb:.0f} MB; file {size_mb:.0f} MB"
    )
    held = seconds < LIMIT_S and megabytes < LIMIT_MB
    print("held" if held else "NOT HELD")
    if chosen.json:
        result = {"seconds": seconds, "megabytes": megabytes, "read_seconds": bare_s, "held": held}
        Path(chosen.json).write_text(json.dumps(result) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
