"""What redaction finds, what it leaves alone, and what it costs.

Texts are those of ``secret_corpus.py``: credentials by the published formats, keys of LLM vendors written by hand, and
what traces are made of. Cost is processor time of the value layer for each KB of clean text, in pieces of 64 KB.
Ingest is that of ready records of 1 KB in batches of 500, redacted and written durably; and that of one thread of a
program that makes such spans, with the value layer and without, in turn.

Usage: python benchmarks/redaction.py [--per-row 50] [--spans 20000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from secret_corpus import Sample, clean_texts, negatives, positives, rows, vendors

from agentlightning.cli.bench.ingest import BATCH, records
from agentlightning.pipeline.redaction import Redactor, rules_hash
from agentlightning.pipeline.redaction.engine import compile_with_re
from agentlightning.pipeline.redaction.gate import SearchGate
from agentlightning.pipeline.redaction.rule import Options, active_rules
from agentlightning.pipeline.redaction.scan import ValueScanner
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable

BAR_RECALL, BAR_VENDORS, BAR_FALSE, BAR_US_PER_KB, BAR_PER_S = 0.97, 0.95, 0.001, 40.0, 12_000
KB = 1024

INGEST = """
import json, sys, time
from agentlightning.pipeline.process import account, flush
from agentlightning.tracer.provider import get_tracer
texts = json.loads(sys.stdin.read())
tracer = get_tracer()
tracer.start_span("warm", attributes={"input.value": texts[0] + " sk-"}).end()
flush(30)
count = int(sys.argv[1])
began = time.perf_counter()
for number in range(count):
    tracer.start_span("ChatCompletion", attributes={"input.value": texts[number % len(texts)], "n": number}).end()
flush(120)
taken = time.perf_counter() - began
done = account()
print(json.dumps({"per_s": count / taken, "stored": done.stored - 1, "lost": done.total_lost + done.waiting}))
"""


def written(count: int, texts: list[str]) -> float:
    """Return how many ready records a second are redacted and durable."""
    redactor = Redactor({})
    spans = records(count, 1)
    for number, span in enumerate(spans):
        span.attributes = {"input.value": texts[number % len(texts)], "n": number}
    redactor.redact_all(spans[:BATCH])  # the engines are loaded
    with tempfile.TemporaryDirectory() as folder, closing(SqliteWriter(Path(folder) / "x.db")) as writer:
        began = time.perf_counter()
        for start in range(0, count, BATCH):
            batch = spans[start : start + BATCH]
            if not all(redactor.redact_all(batch)) or writer.write_batch(WriteBatch(spans=batch)).stored != len(batch):
                sys.exit("a span is missing")
        return count / (time.perf_counter() - began)


def recall(redactor: Redactor, samples: list[Sample]) -> tuple[int, dict[str, int]]:
    """Return how many of *samples* lost their credential, and what was missed by row."""
    missed = Counter(sample.row for sample in samples if sample.secret in redactor.text(sample.text))
    return len(samples) - sum(missed.values()), dict(missed)


def cost(look: Callable[[str], object], texts: list[str], rounds: int) -> float:
    """Return the least processor time in us for each KB that *look* takes, in pieces of 64 KB."""
    pieces = ["\0".join(texts[place : place + 64]) for place in range(0, len(texts), 64)]
    kilobytes = sum(map(len, pieces)) / KB
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for piece in pieces:
            look(piece)
        best = min(best, time.process_time() - began)
    return best / kilobytes * 1e6


def ingest(count: int, texts: list[str], *, redacts: bool) -> dict[str, float]:
    """Return the figures of a program that makes *count* spans."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "AGL_STORE": str(Path(folder) / "x.db"), "AGL_REDACT": "1" if redacts else "0"}
        environment.update(AGL_ROLLOUT_ID="ro-bench", AGL_ATTEMPT_ID="at-bench")  # as agl run does
        command = [sys.executable, "-c", INGEST, str(count)]
        return json.loads(
            subprocess.run(
                command,
                env=environment,
                input=json.dumps(texts),
                capture_output=True,
                check=True,
                text=True,
                timeout=300,
            ).stdout
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-row", type=int, default=50)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("AGL_REDACT_KEY", "benchmark")
    active = active_rules(Options())
    scanner = ValueScanner(active)
    print(
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}, ", end=""
    )
    print(f"google-re2 {version('google-re2')}, gate {scanner.engine}, {len(active)} rules {rules_hash()}")
    redactor = Redactor({})
    well = True

    samples = positives(options.per_row)
    hits, missed = recall(redactor, samples)
    worst = max(missed.items(), key=lambda item: item[1], default=("none", 0))
    well = show(f"generated, each of {len(rows())} formats", hits, len(samples), BAR_RECALL) and well
    print(f"    worst row: {worst[0]}, {worst[1]} of {options.per_row} missed")
    by_hand = vendors()
    well = show("LLM vendors, written by hand", recall(redactor, by_hand)[0], len(by_hand), BAR_VENDORS) and well
    clean = negatives(options.per_row * 4)
    flagged = Counter(kind for kind, text in clean if redactor.text(text) != text)
    false = sum(flagged.values())
    print(f"false positives: {false} / {len(clean)} = {false / len(clean):.4f} (bar {BAR_FALSE}) {dict(flagged) or ''}")
    well = well and false <= BAR_FALSE * len(clean)

    texts = clean_texts(256)
    without = ValueScanner(active, SearchGate, compile_with_re)
    figure = cost(redactor.text, texts, 9)
    close = cost(lambda piece: scanner.find(piece.encode()), texts, 9)
    slow = cost(lambda piece: without.find(piece.encode()), texts, 3)
    print(f"value layer: {figure:.1f} us per KB of clean text (bar {BAR_US_PER_KB:g}), ", end="")
    print(f"{close:.1f} where the first look lets it through; without wheels {slow:.1f}")
    well = well and figure <= BAR_US_PER_KB

    ready = statistics.median(written(options.spans, texts) for _ in range(options.rounds))
    print(f"durable ingest of ready records: {ready:,.0f} spans/s of 1 KB (bar {BAR_PER_S:,})")
    runs = [
        (ingest(options.spans, texts, redacts=True), ingest(options.spans, texts, redacts=False))
        for _ in range(options.rounds)
    ]
    with_it = statistics.median(run["per_s"] for run, _ in runs)
    bare = statistics.median(run["per_s"] for _, run in runs)
    lost = sum(run["lost"] for pair in runs for run in pair)
    print(f"the same made by one thread of a program: {with_it:,.0f} spans/s, {bare:,.0f} without; ", end="")
    print(f"ratio {with_it / bare:.2f}; lost {lost:g}")
    sys.exit(0 if well and ready >= BAR_PER_S and not lost else 1)


def show(what: str, hits: int, total: int, bar: float) -> bool:
    """Print a recall, and tell whether it reaches *bar*."""
    print(f"recall, {what}: {hits} / {total} = {hits / total:.4f} (bar {bar})")
    return hits >= bar * total


if __name__ == "__main__":
    main()
