"""Measure what agents cost and how many rollouts a second go through: decorators, runner, trainer.

    python benchmarks/rollout.py [--quick] [call] [concurrent] [threads] [http] [trace]

Every part prints its figures with the bar that they have to pass, and the whole a line of JSON. A rollout counts from
the moment it is enqueued until its spans can be read. The latency of a commit on this disk is printed beside, because
it bounds everything that is durable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning import (
    LLM,
    LightningStore,
    LitAgent,
    LitAgentRunner,
    OtelTracer,
    RolloutConfig,
    Trainer,
    algo,
    emit_message,
    open_store,
    rollout,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = LLM(endpoint="http://127.0.0.1:1/v1", model="m")


@rollout
async def reward_agent(task: str, llm: LLM) -> float:
    """Emit one reward."""
    _ = task, llm
    return 1.0


@rollout
async def waiting_agent(task: str, llm: LLM) -> float:
    """Call a model that takes 50 ms, and say what it was asked before and after."""
    emit_message(task)
    await asyncio.sleep(0.05)
    emit_message(f"{task} {llm.model}")
    return 1.0


def commit_ms(folder: Path) -> float:
    """Return how long one durable commit takes here, in milliseconds, the median of 200."""
    connection = sqlite3.connect(folder / "commit.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE numbers (number INTEGER)")
    times: list[float] = []
    for number in range(200):
        begun = time.perf_counter()
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        times.append(1e3 * (time.perf_counter() - begun))
    connection.close()
    return statistics.median(times)


CALL = """
import os, statistics, time
from agentlightning import rollout
def bare(task, llm):
    return None
agent = rollout(bare)
def cost(function, count=20000):
    begun = time.perf_counter()
    for _ in range(count):
        function(1, 2)
    return 1e6 * (time.perf_counter() - begun) / count
cost(agent, 100)
print(statistics.median(cost(agent) - cost(bare) for _ in range(9)))
"""


def measure_call(folder: Path, *, quick: bool) -> dict[str, float]:
    """Return what a decorator adds to a call of a function that does nothing, with tracing off, in us."""
    _ = folder, quick
    environment = {**os.environ, "AGL_ENABLED": "0"}
    answer = subprocess.run([sys.executable, "-c", CALL], env=environment, capture_output=True, text=True, check=True)
    return {"decorated_call_added_us (at most 15)": float(answer.stdout)}


async def run_queue(store: LightningStore, agent: LitAgent[str], tasks: int, concurrency: int) -> float:
    """Enqueue and run *tasks* with one runner; return rollouts a second."""
    await store.add_resources({"main": MODEL})
    runner: LitAgentRunner[Any] = LitAgentRunner(OtelTracer(), max_rollouts=tasks, concurrency=concurrency)
    with runner.run_context(agent=agent, store=store):
        begun = time.perf_counter()
        await store.enqueue_rollouts([f"t{index}" for index in range(tasks)])
        await runner.iter()
        return tasks / (time.perf_counter() - begun)


async def count_strays(store: LightningStore) -> int:
    """Return how many rollouts do not have exactly their own spans."""
    strays = 0
    for found in await store.query_rollouts():
        texts = [span.attributes.get("message") for span in await store.query_spans(found.rollout_id)]
        strays += texts != [found.input, f"{found.input} m", None]
    return strays


def measure_concurrent(folder: Path, *, quick: bool) -> dict[str, float]:
    """Return the throughput of 200 rollouts at once against one at a time, in one process, with a 50 ms model."""
    _ = quick

    async def run() -> tuple[float, float, int]:
        store = open_store(str(folder / "concurrent.db"))
        await run_queue(store, waiting_agent, 5, 5)  # imports and first connections are nobody's rollout
        single = await run_queue(store, waiting_agent, 20, 1)
        many = statistics.median([await run_queue(store, waiting_agent, 200, 200) for _ in range(3)])
        strays = await count_strays(store)
        store.close()
        return single, many, strays

    single, many, strays = asyncio.run(run())
    return {
        "one_at_a_time_rollouts_s": single,
        "200_at_once_rollouts_s": many,
        "ratio (at least 20)": many / single,
        "rollouts_with_wrong_spans (0)": strays,
    }


@algo
async def enqueue_all(store: LightningStore, train_dataset: list[str]) -> None:
    """Enqueue everything and wait until it is finished and readable."""
    update = await store.add_resources({"main": MODEL})
    warm = await store.enqueue_rollouts(["warm"] * 8, resources_id=update.resources_id)
    await store.wait_for_rollouts(rollout_ids=[one.rollout_id for one in warm], timeout=60)
    begun = time.perf_counter()
    queued = await store.enqueue_rollouts(train_dataset, resources_id=update.resources_id, config=RolloutConfig())
    ids = [one.rollout_id for one in queued]
    done = await store.wait_for_rollouts(rollout_ids=ids, timeout=120)
    rate = len(done) / (time.perf_counter() - begun)
    failed = sum(one.status != "succeeded" for one in done)
    print(json.dumps({"rate": rate, "failed": failed, "done": len(done)}), flush=True)


def measure_loop(strategy: str, tasks: int, **options: int) -> float:
    """Return rollouts a second through a trainer over SQLite, run in a program of its own."""
    arguments = json.dumps({"strategy": strategy, "tasks": tasks, **options})
    command = [sys.executable, __file__, "--loop", arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if answer.returncode:
        sys.exit(answer.stderr)
    figures = json.loads(answer.stdout.strip().splitlines()[-1])
    if figures["failed"] or figures["done"] != tasks:
        sys.exit(f"not all rollouts succeeded: {figures}")
    return float(figures["rate"])


def run_loop(arguments: dict[str, Any]) -> None:
    """Be the program of ``measure_loop``."""
    tasks, concurrency = arguments.pop("tasks"), arguments.pop("concurrency")
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(str(Path(folder) / "loop.db"))
        runner = {"type": LitAgentRunner, "concurrency": concurrency, "poll_interval": 0.05}
        trainer = Trainer(algorithm=enqueue_all, store=store, runner=runner, progress=False, **arguments)
        trainer.fit(reward_agent, [f"t{index}" for index in range(tasks)])
        store.close()


def measure_threads(folder: Path, *, quick: bool) -> dict[str, float]:
    """Return rollouts a second over SQLite with threads."""
    _ = folder
    rates = [measure_loop("shm", 300 if quick else 2000, n_runners=2, concurrency=32) for _ in range(1 if quick else 3)]
    return {"sqlite_threads_rollouts_s (at least 300)": statistics.median(rates)}


def measure_http(folder: Path, *, quick: bool) -> dict[str, float]:
    """Return rollouts a second over the HTTP store with two worker processes."""
    _ = folder
    rates = [measure_loop("cs", 200 if quick else 1000, n_runners=2, concurrency=16) for _ in range(1 if quick else 3)]
    return {"http_2_workers_rollouts_s (at least 150)": statistics.median(rates)}


TRACE = """
import resource, sys, time, statistics
import opentelemetry.trace as trace
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
if sys.argv[1] == "traced":
    from agentlightning import OtelTracer
    context = OtelTracer().trace_context("bench")
    context.__enter__()
else:
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("bench")
values = {f"key.{i}": "v" * 40 for i in range(20)}
def one():
    with tracer.start_as_current_span("work", attributes=values):
        pass
for _ in range(200):
    one()
time.sleep(0.5)
cpu, begun = time.process_time(), time.perf_counter()
seconds = float(sys.argv[2])
for index in range(int(100 * seconds)):
    one()
    time.sleep(max(0.0, begun + (index + 1) / 100 - time.perf_counter()))
cpu = (time.process_time() - cpu) / (time.perf_counter() - begun)
memory = rss()
times = []
for _ in range(50):
    start = time.perf_counter()
    for _ in range(10):
        one()
    times.append(time.perf_counter() - start)
if sys.argv[1] == "traced":
    start = time.perf_counter()
    for _ in range(10_000):
        one()
    context.__exit__(None, None, None)
    rate = 10_000 / (time.perf_counter() - start)
else:
    rate = 0.0
print(cpu, statistics.mean(times), rate, memory)
"""

DIRECT = """
import statistics, sys, time
from agentlightning import emit_message, rollout
def bare(task, llm):
    emit_message(task)
agent = rollout(bare)
agent("warm", None)
def cost(function):
    begun = time.perf_counter()
    function("x", None)
    return 1e3 * (time.perf_counter() - begun)
print(statistics.mean(cost(agent) for _ in range(100)))
"""


def measure_trace(folder: Path, *, quick: bool) -> dict[str, float]:
    """Return the four figures of a traced program: latency added to a trace, memory, CPU, throughput."""
    seconds = "3" if quick else "15"

    def run(code: str, *arguments: str) -> list[float]:
        environment = {**os.environ, "AGL_STORE": str(folder / "trace.db")}
        command = [sys.executable, "-c", code, *arguments]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return [float(word) for word in answer.stdout.split()]

    traced, plain = run(TRACE, "traced", seconds), run(TRACE, "plain", seconds)
    return {
        "latency_added_to_a_trace_of_10_spans_ms (below 10)": 1e3 * (traced[1] - plain[1]),
        "latency_of_a_direct_call_until_readable_ms (below 10)": run(DIRECT)[0],
        "memory_added_mb (below 50)": traced[3] - plain[3],
        "cpu_added_at_100_spans_s_percent (below 2)": 100 * (traced[0] - plain[0]),
        "spans_s_until_readable (above 1000)": traced[2],
    }


PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "call": measure_call,
    "concurrent": measure_concurrent,
    "threads": measure_threads,
    "http": measure_http,
    "trace": measure_trace,
}


def main() -> None:
    """Run the parts that are asked for and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--quick", action="store_true", help="fewer rollouts and shorter runs")
    parser.add_argument("--loop", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop is not None:
        run_loop(options.loop)
        return
    system = f"{platform.system()} {platform.machine()}"
    figures: dict[str, Any] = {"machine": f"{os.cpu_count()} CPUs, {system}, Python {platform.python_version()}"}
    print(figures["machine"])
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            figures[f"commit_ms ({name})"] = round(commit_ms(Path(folder)), 3)
            figures.update(
                {key: round(value, 3) for key, value in PARTS[name](Path(folder), quick=options.quick).items()}
            )
    for name, value in figures.items():
        print(f"{name:56} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
