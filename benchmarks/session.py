"""What the record of a session costs: CPU time for one model call beyond its span, for a run of an agent, and when off.

With and without session run interleaved in one process, round by round. The record is measured where it is made, in the
step that turns a span into what is stored, by the CPU time of its thread; the run by the CPU time of all threads. A
figure is the median of the rounds' differences. Off is measured after ``TelemetryManager.disable_telemetry()`` on a run
of an agent whose model takes no time, by the CPU time of its thread, beside the same run without any telemetry.

Usage: python benchmarks/session.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

CALLS = 200
"""Model calls in one measurement of the record."""

STEPS = 10
"""Steps of the agent's run; each is one model call and one use of a tool."""

MODEL_S = 0.05
BAR_US = 15.0
BAR_SHARE = 0.01


def thread_us(operation: Callable[[], object]) -> float:
    """Return the CPU time of this thread for *operation*, in microseconds."""
    start = time.thread_time_ns()
    operation()
    return (time.thread_time_ns() - start) / 1e3


def process_us(operation: Callable[[], object]) -> float:
    """Return the CPU time of all threads for *operation*, in microseconds."""
    start = time.process_time_ns()
    operation()
    return (time.process_time_ns() - start) / 1e3


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
        self.spans = [self.span(get_tracer("bench")) for _ in range(CALLS)]

    def session(self, *, on: bool) -> None:
        """Switch the reading of spans on or off; the spans themselves are written in both cases."""
        from agentlightning.pipeline.listener import add_span_listener, remove_span_listener  # noqa: PLC0415 - see above

        reader = vars(self.manager)["_reader"]
        (add_span_listener if on else remove_span_listener)(reader)

    def span(self, tracer: Tracer) -> Any:  # noqa: ANN401 - a span that has ended
        """Return the span of a model call, as an instrumentor writes it."""
        attributes: dict[str, Any] = {
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
        span = tracer.start_span("ChatCompletion", attributes=attributes)
        span.end()
        return span

    def calls(self) -> None:
        """Make records of the spans, as the pipeline's worker does."""
        for number, span in enumerate(self.spans, 1):
            self.preparer.span(span, number)

    def settle(self) -> None:
        """Wait until everything is written and read."""
        self.flush(60)


def make_agent(model_s: float = MODEL_S) -> Any:  # noqa: ANN401 - an agent of smolagents
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


def pairs(
    bench: Bench, measure: Callable[[Callable[[], object]], float], operation: Callable[[], object], rounds: int
) -> list[tuple[float, float]]:
    """Return the CPU times without and with a session, round by round, the order changing."""
    found: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        times: dict[bool, float] = {}
        for on in (False, True) if number % 2 else (True, False):
            bench.session(on=on)
            bench.settle()
            times[on] = measure(operation)
        if number:  # the first round warms up
            found.append((times[False], times[True]))
    return found


def off_share(bench: Bench, rounds: int) -> tuple[float, float]:
    """Return what a run costs with telemetry switched off, as a part of a bare one, and the same for two bare ones.

    Bare is the library alone; switched off, it has its own methods again, so what is left is the collector's call.
    """
    import smolagents  # noqa: PLC0415 - AGL_STORE is set by now

    library: Any = smolagents.MultiStepAgent
    original = library.run
    agent = make_agent(0.0)

    def bare() -> None:
        agent.run("count")

    def off() -> None:
        agent.run("count")
        bench.manager.get_collector().record_llm_call(model="m", prompt_tokens=1, completion_tokens=1, duration=0.1)

    bench.manager.enable_telemetry()
    bench.manager.disable_telemetry()
    if library.run is not original:
        sys.exit("switching telemetry off has left something on smolagents")
    found: dict[str, list[float]] = {"off": [], "bare": []}
    for number in range(rounds + 1):
        order = [("one", bare), ("off", off), ("two", bare)]
        times = {name: thread_us(work) for name, work in (order if number % 2 else reversed(order))}
        if number:
            middle = (times["one"] + times["two"]) / 2
            found["off"].append(times["off"] / middle - 1)
            found["bare"].append(times["one"] / times["two"] - 1)
    return statistics.median(found["off"]), statistics.median(found["bare"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"], os.environ["AGL_STORE"] = folder, str(Path(folder) / "bench.db")
        bench = Bench()
        record = [(with_session - bare) / CALLS for bare, with_session in pairs(bench, thread_us, bench.calls, rounds)]
        own = bench.manager.get_storage_stats()["overhead_us_per_span"]
        agent = make_agent()

        def run() -> None:
            agent.run("count")
            bench.settle()

        runs = pairs(bench, process_us, run, max(3, rounds // 3))
        share = statistics.median(with_session - bare for bare, with_session in runs) / (STEPS * MODEL_S * 1e6)
        bench.manager.finalize_current_session()
        before = sorted(Path(folder).rglob("*.json"))
        bench.manager.disable_telemetry()
        off, noise = off_share(bench, 4 * rounds)
        written = len(set(Path(folder).rglob("*.json")) - set(before))
        bench.manager.shutdown()
    print(f"{os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}, ", end="")
    print(f"smolagents {version('smolagents')}, agentlightning {version('agentlightning')}")
    result = {
        "record_us": round(statistics.median(record), 1),
        "reader_us": own,
        "record_bar_us": BAR_US,
        "run_share": round(share, 5),
        "run_bar": BAR_SHARE,
        "off_share": round(off, 5),
        "off_noise": round(noise, 5),
        "files_written_off": written,
    }
    print(f"record of a model call beyond its span: {result['record_us']} us, ", end="")
    print(f"{own} us by its own measure (bar {BAR_US})")
    print(f"CPU time for {STEPS} steps by the time of a model of 50 ms: {share:.2%} (bar {BAR_SHARE:.0%})")
    print(f"switched off, a run without a model's time: {off:+.2%} (two bare runs: {noise:+.2%}), {written} files")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
