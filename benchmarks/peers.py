"""What tracing one LLM call costs the calling thread: ours beside Logfire, Langfuse, MLflow and OpenLLMetry.

Every candidate is a process of its own that makes the same chat completions with the real openai client over a
transport that answers from memory; the rounds of all candidates are interleaved. A figure is the CPU time of the
calling thread per call above that of the bare client: the median of the rounds' differences. Peers deliver to a server
on loopback that takes everything; ours writes its SQLite store. A peer that does not install or start is named.

Usage: python benchmarks/peers.py [--rounds 9] [--calls 60]
It runs itself again in an environment with the peers, made by uv in .venvs/peers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentlightning import OtelTracer

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venvs" / "peers"
PACKAGES = {
    "agentlightning": "agentlightning",
    "logfire": "logfire",
    "langfuse": "langfuse",
    "mlflow": "mlflow-tracing",
    "openllmetry": "opentelemetry-instrumentation-openai",
}
"""Candidate and the distribution that it is measured with."""

MESSAGES = [
    {"role": "system", "content": "You are a careful assistant. " * 20},
    {"role": "user", "content": "What is the weather in Lisbon? " * 10},
]
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Sunny. " * 40}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 80, "total_tokens": 280},
}


class Sink(BaseHTTPRequestHandler):
    """Answers every request with an empty 200."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the body and say yes."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"{}"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815 - of the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base class
        """Say nothing."""


def start_ours(sink: str) -> None:
    """Instrument with Agent Lightning."""
    _ = sink
    OtelTracer().init()


def start_logfire(sink: str) -> None:
    """Instrument with Logfire, exporting to the sink."""
    logfire: Any = import_module("logfire")
    advanced = logfire.AdvancedOptions(base_url=sink)
    logfire.configure(token="pylf_v1_us_" + "a" * 43, console=False, advanced=advanced, send_to_logfire=True)
    logfire.instrument_openai()


def start_langfuse(sink: str) -> None:
    """Instrument with Langfuse, exporting to the sink."""
    import_module("langfuse.openai")
    langfuse: Any = import_module("langfuse")
    langfuse.Langfuse(public_key="pk-lf-1", secret_key="sk-lf-1", host=sink)


def start_mlflow(sink: str) -> None:
    """Instrument with MLflow tracing, exporting to the sink."""
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "true"
    mlflow: Any = import_module("mlflow")
    mlflow.set_tracking_uri(sink)
    mlflow_openai: Any = import_module("mlflow.openai")
    mlflow_openai.autolog()


def start_openllmetry(sink: str) -> None:
    """Instrument with OpenLLMetry's OpenAI part and the SDK's batch processor, exporting nowhere."""
    _ = sink
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    openllmetry: Any = import_module("opentelemetry.instrumentation.openai")
    openllmetry.OpenAIInstrumentor().instrument(tracer_provider=provider)


STARTERS: dict[str, Callable[[str], None]] = {
    "bare": lambda _sink: None,
    "agentlightning": start_ours,
    "logfire": start_logfire,
    "langfuse": start_langfuse,
    "mlflow": start_mlflow,
    "openllmetry": start_openllmetry,
}


def make_client() -> Any:  # noqa: ANN401 - the client of whatever openai is installed
    """Return an openai client whose transport answers from memory."""
    httpx2: Any = import_module("httpx2")  # what openai 3 stands on
    openai: Any = import_module("openai")  # after the instrumentation, as in a program
    body = json.dumps(ANSWER).encode()

    def answer(request: object) -> object:
        _ = request
        return httpx2.Response(200, content=body, headers={"content-type": "application/json"})

    transport = httpx2.MockTransport(answer)
    return openai.OpenAI(api_key="sk-none", base_url="http://model/v1", http_client=httpx2.Client(transport=transport))


def work(name: str, sink: str) -> None:
    """Be one candidate: for each number on stdin make so many calls and print microseconds of CPU per call."""
    out = os.dup(1)
    os.dup2(2, 1)  # peers print what they like
    STARTERS[name](sink)
    client = make_client()
    for line in sys.stdin:
        calls = int(line)
        start = time.thread_time_ns()
        for _ in range(calls):
            client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
        os.write(out, f"{(time.thread_time_ns() - start) / calls / 1e3}\n".encode())


class Candidate:
    """A process that makes calls when it is told to."""

    def __init__(self, name: str, sink: str, folder: Path) -> None:
        """Start it; its first calls warm it up."""
        self.name = name
        self.log = folder / f"{name}.log"
        environment = {**os.environ, "AGL_STORE": str(folder / "ours.db"), "HOME": str(folder)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name, "--sink", sink],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True, env=environment,
        )  # fmt: skip

    def measure(self, calls: int) -> float | None:
        """Return the microseconds of one call, or None when the process is gone."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return None
        try:
            stdin.write(f"{calls}\n")
            stdin.flush()
        except OSError:
            return None
        line = stdout.readline()
        return float(line) if line else None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def compare(rounds: int, calls: int) -> dict[str, dict[str, Any]]:
    """Measure every candidate in turn, round by round."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sink = f"http://127.0.0.1:{server.server_address[1]}"
    folder = Path(tempfile.mkdtemp())
    candidates = [Candidate(name, sink, folder) for name in STARTERS]
    times: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    try:
        for number in range(rounds + 1):
            for candidate in candidates[number % 6 :] + candidates[: number % 6]:
                taken = candidate.measure(calls) if candidate.name not in failed else None
                if taken is None:
                    failed.setdefault(candidate.name, (candidate.log.read_text().splitlines() or ["no reason"])[-1])
                elif number:
                    times.setdefault(candidate.name, []).append(taken)
    finally:
        for candidate in candidates:
            candidate.close()
        server.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    return {name: _figures(name, times, failed) for name in PACKAGES}


def _figures(name: str, times: dict[str, list[float]], failed: dict[str, str]) -> dict[str, Any]:
    if name in failed:
        return {"failed": failed[name]}
    added = statistics.median(mine - bare for mine, bare in zip(times[name], times["bare"], strict=True))
    return {"version": _version(PACKAGES[name]), "added_us": round(added, 1), "of_bare": round(added / _bare(times), 3)}


def _bare(times: dict[str, list[float]]) -> float:
    return statistics.median(times["bare"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Make the environment when it is not there, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--sink", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.sink)
        return
    if Path(sys.prefix) != ENVIRONMENT:
        raise SystemExit(run_with_peers())
    results = compare(options.rounds, options.calls)
    print(
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}, ", end=""
    )
    print(f"openai {_version('openai')}: CPU time of the calling thread that tracing adds to one chat completion")
    ours = results["agentlightning"].get("added_us")
    for name, figures in results.items():
        if "failed" in figures:
            print(f"{name:16} does not run here: {figures['failed'][:100]}")
        else:
            ratio = f"{figures['added_us'] / ours:6.2f} x ours" if ours else ""
            print(f"{name:16} {figures['version']:10} {figures['added_us']:9.1f} us {ratio}")
    print(json.dumps(results))


def run_with_peers() -> int:
    """Run this script again in an environment that has the peers; return its exit code."""
    uv = shutil.which("uv") or str(ROOT / ".tools/uv/bin/uv")
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(ENVIRONMENT)], check=True)
    peers = [package for name, package in PACKAGES.items() if name != "agentlightning"]
    install = [uv, "pip", "install", "--quiet", "--python", str(python), "-e", str(ROOT), "openai>=3,<4", *peers]
    subprocess.run(install, check=True)
    return subprocess.run([str(python), *sys.argv], check=False).returncode


if __name__ == "__main__":
    main()
