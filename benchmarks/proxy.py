"""Measure what the model proxy adds to a call: server, proxy and client are processes of their own.

Calls go in turn to the model server itself and through the proxy, with one client each, over connections that are kept;
those through the proxy belong to an attempt, as those of every agent do that was given its address.
Prints the median of both, of their difference in pairs, the time to the first bytes of a stream, and the processor time
of the proxy for each call, which is the figure to compare where the machine has other work. Then 200 rollouts call at
once, and their spans are counted.

Promise: at most 2 ms added at p50; the first byte of a stream passed on at once; no span lost, none in another rollout.

Usage: python benchmarks/proxy.py [--calls 500] [--rollouts 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import psutil

from agentlightning import open_store

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentlightning import AttemptedRollout

LIMIT_MS = 2.0
CALLS_EACH = 5
WARM_UP = 20
MODEL = "from agentlightning.testing.model_server import main; main(['--port', '0'])"
PROXY = """
import sys, threading
from agentlightning import open_store
from agentlightning.server.proxy import LLMProxy
store = open_store(sys.argv[1])
with LLMProxy({"endpoint": sys.argv[2], "token_ids": False}, store=store) as proxy:
    print(proxy.url, flush=True)
    sys.stdin.read()
store.close()
"""
ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "word " * 200}]}


@contextmanager
def program(code: str, *arguments: str) -> Generator[tuple[str, psutil.Process]]:
    """Run *code*; give the URL that it prints in its first line, and the process."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield (process.stdout.readline() if process.stdout else "").split()[-1], psutil.Process(process.pid)
        finally:
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.terminate()


def of_attempt(through: str, rollout: AttemptedRollout) -> str:
    """Return the address of the proxy for the attempt of *rollout*."""
    ids = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1"
    return through.removesuffix("/v1") + ids


def timed(client: httpx.Client, url: str, *, stream: bool) -> float:
    """Return the milliseconds until the whole answer, or until the first bytes of a stream, are there."""
    start = time.perf_counter()
    with client.stream("POST", f"{url}/chat/completions", json={**ASKED, "stream": stream}) as answer:
        answer.raise_for_status()
        first = None
        for _ in answer.iter_raw():
            first = first or time.perf_counter()
    return ((first if stream and first else time.perf_counter()) - start) * 1e3


def compare(direct: str, through: str, proxy: psutil.Process, calls: int, *, stream: bool) -> dict[str, float]:
    """Return medians and the proxy's processor time in milliseconds; every pair is one call of each, in turn."""
    pairs: list[tuple[float, float]] = []
    before = 0.0
    with httpx.Client(timeout=30) as one, httpx.Client(timeout=30) as other:
        for number in range(calls + WARM_UP):
            if number == WARM_UP:
                before = sum(proxy.cpu_times()[:2])
            first = timed(one, direct, stream=stream)
            second = timed(other, through, stream=stream)
            if number >= WARM_UP:
                pairs.append((first, second))
    added = sorted(second - first for first, second in pairs)
    return {
        "direct": statistics.median(first for first, _ in pairs),
        "through": statistics.median(second for _, second in pairs),
        "added": statistics.median(added),
        "added_p95": added[int(len(added) * 0.95)],
        "cpu": (sum(proxy.cpu_times()[:2]) - before) / calls * 1e3,
    }


async def crowd(store_url: str, through: str, count: int) -> tuple[int, int]:
    """Let *count* rollouts call at once; return how many spans are in their own rollout, and how many should be."""
    store = open_store(store_url)
    made = [await store.start_rollout(number) for number in range(count)]

    async def run(rollout: AttemptedRollout, client: httpx.AsyncClient) -> None:
        url = f"{of_attempt(through, rollout)}/chat/completions"
        for _ in range(CALLS_EACH):
            body = {**ASKED, "messages": [{"role": "user", "content": rollout.rollout_id}]}
            (await client.post(url, json=body)).raise_for_status()

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=count)) as client:
        await asyncio.gather(*(run(rollout, client) for rollout in made))
    right = 0
    for rollout in made:
        spans = await store.query_spans(rollout.rollout_id)
        right += sum(rollout.rollout_id in str(span.attributes.get("input.value")) for span in spans)
    store.close()
    return right, count * CALLS_EACH


def main() -> int:
    """Measure, print, and say whether the promise holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--json", metavar="FILE")
    chosen = parser.parse_args()
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, httpx {httpx.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.db"
        store = open_store(url)
        attempt = asyncio.run(store.start_rollout("timed"))
        store.close()
        with program(MODEL) as (direct, _), program(PROXY, url, direct) as (through, proxy):
            address = of_attempt(through, attempt)
            whole = compare(direct, address, proxy, chosen.calls, stream=False)
            first = compare(direct, address, proxy, chosen.calls, stream=True)
            start = time.monotonic()
            right, expected = asyncio.run(crowd(url, through, chosen.rollouts))
            seconds = time.monotonic() - start
    for title, found in (("whole answer", whole), ("first bytes of a stream", first)):
        print(
            f"{title:24} direct {found['direct']:5.2f} ms, through {found['through']:5.2f} ms, "
            f"added p50 {found['added']:5.2f} ms, p95 {found['added_p95']:5.2f} ms, "
            f"processor time of the proxy {found['cpu']:5.2f} ms a call"
        )
    print(f"{chosen.rollouts} rollouts at once: {right} of {expected} spans in their own rollout, {seconds:.1f} s")
    held = whole["added"] <= LIMIT_MS and right == expected
    print(f"added at most {LIMIT_MS} ms at p50, no span lost: {'held' if held else 'NOT HELD'}")
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as file:  # noqa: PTH123 - the shortest
            json.dump({"whole": whole, "first": first, "right": right, "expected": expected, "held": held}, file)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
