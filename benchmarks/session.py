"""What the record of a session costs: CPU time for one model call beyond its span, for a run of an agent, and when off.

* The record is measured where it is made, in the step that turns a span into what is stored, by the CPU time of its
  thread: blocks of spans with and without a session in turn, the order changing.
* The run is an agent of ten steps whose model takes 50 ms, with everything up to the written session file, by the CPU
  time of all threads, beside the same run whose spans no session reads.
* Off is measured in processes of their own: one in which telemetry recorded a run and was switched off, and two that
  have smolagents and nothing else, run by run in turn, by the CPU time of all their threads. The model takes no time.

A figure is the median of the differences of neighbours; noise is the same figure for two candidates that are alike.

Usage: python benchmarks/session.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer

CALLS = 20
"""Model calls in one block; short, that whatever else the machine does falls on both candidates."""

BLOCKS = 10
"""Pairs of blocks in a round."""

STEPS = 10
"""Steps of the agent's run; each is one model call and one use of a tool."""

RUNS = 4
"""Runs without a model's time in one measurement."""

SETS = 3
"""How often the processes that are compared are started anew: two processes of the same program differ a little."""

MODEL_S = 0.05
BAR_US = 15.0
BAR_SHARE = 0.01


def cpu_us(clock: Callable[[], int], operation: Callable[[], object]) -> float:
    """Return the CPU time that *operation* takes by *clock*, in microseconds."""
    start = clock()
    operation()
    return (clock() - start) / 1e3


class Bench:
    """The two candidates: spans alone, and spans with a session read from them."""

    def __init__(self) -> None:
        """Make both; nothing is instrumented but smolagents."""
        import agentlightning  # noqa: PLC0415 - AGL_STORE is set by now
        from ai_agents.telemetry import TelemetryManager  # noqa: PLC0415 - see above

        self.flush = agentlightning.flush
        self.manager = TelemetryManager.get_instance()
        self.manager.initialize({"flush_interval": 0})
        from agentlightning.pipeline.prepare import Preparer  # noqa: PLC0415 - see above
        from agentlightning.tracer.provider import get_tracer  # noqa: PLC0415 - see above

        self.preparer = Preparer()
        self.spans = [model_span(get_tracer("bench")) for _ in range(CALLS)]
        self.flush(60)

    def session(self, *, on: bool) -> None:
        """Switch the reading of spans on or off; the spans themselves are written in both cases."""
        from agentlightning import add_span_listener, remove_span_listener  # noqa: PLC0415 - see above

        reader = vars(self.manager)["_reader"]
        (add_span_listener if on else remove_span_listener)(reader)

    def prepare(self) -> None:
        """Make records of the spans, as the pipeline's worker does of what it took from its queue."""
        records = [self.preparer.convert(span, number) for number, span in enumerate(self.spans, 1)]
        self.preparer.redact(records)
        for record in records:
            self.preparer.finish(record)

    def record_us(self, rounds: int) -> tuple[float, float]:
        """Return what the record of a call takes beyond its span, and the same for no record, in microseconds."""
        found: dict[str, list[float]] = {"record": [], "noise": []}
        for _ in range(rounds + 1):
            sums = {"on": 0.0, "off": 0.0, "again": 0.0}
            for block in range(BLOCKS):
                for name in ("on", "off", "again") if block % 2 else ("again", "off", "on"):
                    self.session(on=name == "on")
                    sums[name] += cpu_us(time.thread_time_ns, self.prepare) / (BLOCKS * CALLS)
            found["record"].append(sums["on"] - sums["off"])
            found["noise"].append(sums["again"] - sums["off"])
        self.session(on=True)
        return statistics.median(found["record"][1:]), statistics.median(found["noise"][1:])  # the first warms up

    def run_share(self, rounds: int) -> tuple[float, float]:
        """Return what a session adds to a run, as a part of its model's time, and the same for no session."""
        agent = make_agent(MODEL_S)

        def run() -> None:
            agent.run("count")
            self.flush(60)

        def run_and_write() -> None:
            run()
            self.manager.flush_data()

        found: dict[str, list[float]] = {"share": [], "noise": []}
        for number in range(rounds + 1):
            times: dict[str, float] = {}
            for name in ("on", "off", "again") if number % 2 else ("again", "off", "on"):
                self.session(on=name == "on")
                times[name] = cpu_us(time.process_time_ns, run_and_write if name == "on" else run)
            found["share"].append((times["on"] - times["off"]) / (STEPS * MODEL_S * 1e6))
            found["noise"].append((times["again"] - times["off"]) / (STEPS * MODEL_S * 1e6))
        self.session(on=True)
        return statistics.median(found["share"][1:]), statistics.median(found["noise"][1:])


def model_span(tracer: Tracer) -> ReadableSpan:
    """Return the span of a model call, as an instrumentor writes it."""
    attributes: dict[str, str | int] = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "gpt-4o-mini",
        "llm.token_count.prompt": 900,
        "llm.token_count.completion": 120,
        "llm.token_count.total": 1020,
        "llm.invocation_parameters": '{"temperature": 0.2}',
    }
    for index in range(8):
        attributes[f"llm.input_messages.{index}.message.role"] = "user"
        attributes[f"llm.input_messages.{index}.message.content"] = "What is the capital of Portugal? " * 4
    span: Any = tracer.start_span("ChatCompletion", attributes=attributes)
    span.end()
    return span


def make_agent(model_s: float) -> Any:  # noqa: ANN401 - an agent of smolagents
    """Return an agent whose model takes *model_s* and calls a tool in each step."""
    import smolagents.models as library  # noqa: PLC0415 - after the instrumentation
    from smolagents import Tool, ToolCallingAgent  # noqa: PLC0415 - see above

    models: Any = library

    class Slow(models.Model):
        def generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002 - of the library
            time.sleep(model_s)
            done = sum("Calling tools" in str(getattr(message, "content", "")) for message in messages)
            name, given = ("final_answer", {"answer": 1}) if done >= STEPS - 1 else ("double", {"number": done})
            function = models.ChatMessageToolCallFunction(name=name, arguments=given)
            call = models.ChatMessageToolCall(id=f"call_{done}", type="function", function=function)
            usage = models.TokenUsage(input_tokens=900, output_tokens=20)
            return models.ChatMessage(role="assistant", content=None, tool_calls=[call], token_usage=usage)

    class Double(Tool):
        name = "double"
        description = "Doubles."
        inputs = {"number": {"type": "integer", "description": "What."}}  # noqa: RUF012 - as the library has it
        output_type = "integer"

        def forward(self, number: int) -> int:
            return 2 * number

    return ToolCallingAgent(tools=[Double()], model=Slow(), max_steps=STEPS + 2, verbosity_level=-1)


def serve(candidate: str) -> None:
    """Be a process that runs an agent for each line of its input and prints the CPU time, in microseconds.

    What a program may still call by hand while telemetry is off is called once in each run.
    """
    by_hand: list[Callable[[], object]] = []
    if candidate == "off":
        from ai_agents.telemetry import TelemetryManager  # noqa: PLC0415 - the other candidate has none

        before = library_methods()
        manager = TelemetryManager.get_instance()
        manager.initialize()
        make_agent(0.0).run("count")
        manager.disable_telemetry()
        classes = {name.split(".")[0] for name in before}  # not those of the agent that has run
        after = {name: method for name, method in library_methods().items() if name.split(".")[0] in classes}
        left = [name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)]
        if left:
            sys.exit(f"switched off, telemetry has left something on {', '.join(left)}")
        by_hand.append(lambda: manager.get_collector().record_llm_call("m", 1, 1, 0.1))
    agent = make_agent(0.0)

    def runs() -> None:
        for _ in range(RUNS):
            agent.run("count")
            for call in by_hand:
                call()

    for _ in sys.stdin:
        gc.collect()
        gc.disable()  # else a collection falls into every other run of one process, and into none of its neighbour's
        print(cpu_us(time.process_time_ns, runs), flush=True)
        gc.enable()


def library_methods() -> dict[str, object]:
    """Return what the classes of smolagents have of their own, by class and name."""
    from smolagents import agents, models, tools  # noqa: PLC0415 - the candidates import when they like

    found: dict[str, object] = {}
    waiting: list[type] = [agents.MultiStepAgent, models.Model, tools.Tool]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        found.update({f"{cls.__name__}.{name}": value for name, value in vars(cls).items()})
    return found


class Server:
    """A process of ``serve``."""

    def __init__(self, candidate: str, blocks: ExitStack) -> None:
        """Start it; it ends with *blocks*."""
        command = [sys.executable, __file__, "--serve", candidate]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        self._process = blocks.enter_context(
            subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )

    def measure(self) -> float:
        """Return the CPU time of the next runs."""
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            sys.exit("the process has no pipes")
        requests.write("\n")
        requests.flush()
        return float(answers.readline())


def off_share(rounds: int) -> tuple[float, float]:
    """Return what a run costs after telemetry was switched off, as a part of a bare one, and the same for bare ones."""
    found: dict[str, list[float]] = {"off": [], "bare": []}
    for _ in range(SETS):
        with ExitStack() as blocks:
            servers = {"one": Server("bare", blocks), "off": Server("off", blocks), "two": Server("bare", blocks)}
            for number in range(rounds + 1):
                order = list(servers) if number % 2 else list(reversed(servers))
                times = {name: servers[name].measure() for name in order}
                if number:  # the first round warms up
                    found["off"].append(times["off"] / ((times["one"] + times["two"]) / 2) - 1)
                    found["bare"].append(times["one"] / times["two"] - 1)
    return statistics.median(found["off"]), statistics.median(found["bare"])


def measure(rounds: int) -> dict[str, float]:
    """Measure everything in a home and a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"], os.environ["AGL_STORE"] = folder, str(Path(folder) / "bench.db")
        bench = Bench()
        record, record_noise = bench.record_us(rounds)
        own: float = bench.manager.get_storage_stats()["overhead_us_per_span"]
        bench.manager.start_new_session()
        share, share_noise = bench.run_share(rounds)
        bench.manager.shutdown()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"], os.environ["AGL_STORE"] = folder, str(Path(folder) / "bench.db")
        off, off_noise = off_share(4 * rounds)
        files = list(Path(folder).rglob("*.json"))
    return {
        "record_us": round(record, 1),
        "record_noise_us": round(record_noise, 1),
        "reader_us": own,
        "record_bar_us": BAR_US,
        "run_share": round(share, 5),
        "run_noise": round(share_noise, 5),
        "run_bar": BAR_SHARE,
        "off_share": round(off, 5),
        "off_noise": round(off_noise, 5),
        "files_written_off": len(files) - SETS,  # each process wrote the session of before it was switched off
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", choices=["bare", "off"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    found = measure(given.rounds)
    print(f"{os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}, ", end="")
    print(f"smolagents {version('smolagents')}, agentlightning {version('agentlightning')}")
    print(f"record of a model call beyond its span: {found['record_us']} us ", end="")
    print(f"(noise {found['record_noise_us']:+} us), {found['reader_us']} us by its own measure (bar {BAR_US})")
    print(f"CPU time of a session, by the time of {STEPS} model calls of 50 ms: {found['run_share']:.2%} ", end="")
    print(f"(noise {found['run_noise']:+.2%}; bar {BAR_SHARE:.0%})")
    print(f"switched off, a run without a model's time: {found['off_share']:+.2%} ", end="")
    print(f"(two bare processes: {found['off_noise']:+.2%}), {found['files_written_off']} files")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
