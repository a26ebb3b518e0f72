"""What capture costs the program: thread CPU time per span, and wall time while the worker is busy.

All candidates run interleaved in one process, round by round; a ratio is the median of the rounds' ratios.

Usage: python benchmarks/overhead.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from opentelemetry.trace import use_span

from agentlightning.cli.bench.machine import described
from agentlightning.cli.bench.measure import Candidates, compare, ratio, thread_time_us, wall_time_us


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AGL_STORE"] = str(Path(folder) / "bench.db")
        candidates = Candidates()
        cpu = compare(candidates, dict(candidates.span), thread_time_us, rounds, candidates.idle)
        wall = compare(candidates, {n: candidates.span[n] for n in ("batch", "own")}, wall_time_us, rounds)
        with use_span(candidates.current):  # a reward is given inside a rollout
            reward = compare(candidates, dict(candidates.reward), thread_time_us, rounds, candidates.idle)
            event = compare(candidates, dict(candidates.event), thread_time_us, rounds, candidates.idle)
        candidates.settle()
    rows = [
        ("span, our provider / bare SDK", cpu, "own", "bare", 1.25),
        ("span, joined provider / bare SDK", cpu, "joined", "bare", 1.4),
        ("span, wall, worker busy / batch processor", wall, "own", "batch", 1.2),
        ("emit_reward / SDK span with batch processor", reward, "own", "batch", 0.3),
        ("emit_event, receipt thrown away / emit_message", event, "event", "message", 2.0),
        ("emit_event of a custom type / emit_message", event, "custom", "message", 2.2),
    ]
    print(described())
    results: dict[str, dict[str, float]] = {}
    for label, times, ours, peer, bar in rows:
        figures = {
            "ours_us": round(statistics.median(times[ours]), 2),
            "peer_us": round(statistics.median(times[peer]), 2),
            "ratio": round(ratio(times, ours, peer), 3),
            "bar": bar,
        }
        results[label] = figures
        print(
            f"{label:46} {figures['ours_us']:8.2f} us {figures['peer_us']:8.2f} us  {figures['ratio']:.3f} (bar {bar})"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
