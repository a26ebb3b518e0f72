"""The questions that people come with, in the order in which to ask them, and one row for each possible cause.

``docs/doctor.md`` has the same tables. A row looks at what is recorded, at counters and settings, and says what helps.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning import semconv, settings
from agentlightning._internal.ids import is_process_gone
from agentlightning.cli.doctor import source
from agentlightning.cli.doctor.finding import FAIL, NOTE, OK, WARN, Finding
from agentlightning.cli.terminal import safe
from agentlightning.cli.text import count, plural
from agentlightning.pipeline.watch import Meters
from agentlightning.view.tree import COUNTED_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentlightning.cli.doctor.reading import Reading

_LONG_OPEN_S = 3600.0
_HEAP_BYTES = 5_600
"""Heap of a queued span of 1 KB."""
_PRESSED = 10.0
"""Share of time in percent, of the last 10 s, in which something waited for a resource."""
_BAD_MEMORY_BYTES = 2**30
_ALERT_NAME = 9
"""Characters of an alert's name that are shown."""
_ALERTS = {
    "memory": (
        "memory was short; queues went to the disk, garbage was collected",
        "give it more memory; AGL_MEMORY_THRESHOLD=33554432 bounds what tracing holds",
    ),
    "cpu": (
        "the program used nearly all of its processors",
        "profile it, or give it more; AGL_CPU_LOWERS_SAMPLING=1 records less meanwhile",
    ),
    "latency": (
        "the store took too long for a batch",
        "AGL_STORE=http://first:4747,http://second:4747 names a server to switch to; or a store on a local disk",
    ),
    "errors": (
        "too many deliveries to the store failed",
        "see the rows 'store' and 'network'; AGL_LOG_LEVEL=ERROR says which errors",
    ),
    "tracing_rate": (
        "too many rollouts ended before their spans could be read",
        "raise AGL_FLUSH_TIMEOUT_S; see 'store latency'",
    ),
    "failure_rate": ("too many rollouts failed", "agl ls; agl show latest says why"),
    "duration_s": ("rollouts took too long", "agl show latest shows where the time goes; AGL_ALERT_DURATION_S"),
}
"""By name of an alert: what happened, and what helps."""


def questions(reading: Reading, files: Sequence[Path] = ()) -> Iterator[tuple[str, list[Finding]]]:
    """Yield each question with the rows that answer it; *files*: programs to look into."""
    yield "Are spans missing?", [*missing(reading)]
    yield "Has it become slow?", [*slow(reading)]
    yield "Does memory grow?", [*memory(reading)]
    yield "Are spans there twice?", [*twice(reading)]
    yield "Does a function misbehave?", [*source.findings(files), library_finding(reading)]


def missing(reading: Reading) -> Iterator[Finding]:
    """Events lost: network, buffer, filters, sampling, storage, in this order; then a context that is not closed."""
    lost = reading.lost
    yield _network(reading)
    full = lost.get("queue_full", 0)
    text = f"{plural(full, 'span')} lost because the queue was full ({count(settings.get(settings.QUEUE_BYTES))} bytes)"
    remedy = "export AGL_QUEUE_BYTES=67108864; or AGL_QUEUE_BLOCK_MS=60000: let the program wait instead"
    yield Finding(FAIL if full else OK, "buffer", text, remedy if full else "")
    if settings.get(settings.QUEUE_POLICY) == "DROP_OLDEST":
        text = "AGL_QUEUE_POLICY=DROP_OLDEST throws the oldest spans away when the queue is full"
        yield Finding(WARN, "buffer policy", text, "unset AGL_QUEUE_POLICY")
    yield _filters(lost.get("filtered", 0))
    yield _sampling(lost.get("sampled", 0))
    yield _storage(reading)
    yield _protocol(lost)
    killed = lost.get("killed", 0)
    remedy = "AGL_DURABILITY=SYNC keeps the last 50 ms too; give a program time after SIGTERM"
    text = f"{plural(killed, 'span was', 'spans were')} under way when their process was killed"
    yield Finding(FAIL if killed else OK, "killed", text, remedy if killed else "")
    yield _contexts(reading)


def _network(reading: Reading) -> Finding:
    if reading.scheme not in {"http", "https"}:
        return Finding(OK, "network", "not needed: the store is on this machine")
    if reading.problem is not None:
        text = "the store's server does not answer; programs bring their spans to the disk meanwhile"
        return Finding(FAIL, "network", text, "start it (agl store serve), or correct AGL_STORE, the firewall, the key")
    return Finding(OK, "network", f"the server answers in {reading.answer_s * 1e3:.0f} ms")


def _filters(filtered: int) -> Finding:
    rules, rate = settings.get(settings.SAMPLE_RULES), settings.get(settings.RATE_LIMIT)
    strict: list[str] = []
    if not settings.get(settings.ENABLED):
        strict.append("AGL_ENABLED=0 turns everything off")
    if settings.get(settings.INSTRUMENT):
        strict.append(f"AGL_INSTRUMENT={settings.get(settings.INSTRUMENT)} leaves libraries out")
    if rules:
        strict.append(f"AGL_SAMPLE_RULES={rules}")
    if rate:
        strict.append(f"AGL_RATE_LIMIT={rate:g} spans a second")
    text = f"{plural(filtered, 'span')} left out by rules; {'; '.join(strict) or 'no rule is set'}"
    if filtered or strict:
        names = ", ".join(each.partition("=")[0] for each in strict) or "the program's own rules (keep=False)"
        return Finding(WARN, "filter rules", text, f"relax or unset {names}")
    return Finding(OK, "filter rules", text)


def _sampling(sampled: int) -> Finding:
    rate = settings.get(settings.SAMPLE_RATE)
    text = f"{rate:.0%} of the traces are kept; {plural(sampled, 'span')} not kept so far"
    if rate < 1 or sampled:
        return Finding(WARN, "sampling", text, "export AGL_SAMPLE_RATE=1; or keep what matters: AGL_TAIL_ERRORS=1")
    return Finding(OK, "sampling", text)


def _storage(reading: Reading) -> Finding:
    lost = reading.lost
    full, failed = lost.get("disk_full", 0), lost.get("store_error", 0)
    if reading.problem is not None:
        return Finding(FAIL, "storage", "the store cannot be used: see the row 'store'", "agl store verify")
    if full:
        text = f"{plural(full, 'span')} lost: no room on the disk, or the spill's cap was reached"
        return Finding(FAIL, "storage", text, "agl store prune --older-than 30d; export AGL_SPILL_BYTES=2147483648")
    if failed:
        text = f"{plural(failed, 'span')} lost: the store did not take them"
        return Finding(FAIL, "storage", text, "agl store verify; AGL_LOG_LEVEL=WARNING says which error it is")
    return Finding(OK, "storage", "the store takes what it gets")


def _protocol(lost: dict[str, int]) -> Finding:
    """Protocol layer and limits: spans that were refused for what they are."""
    reasons = {
        "rejected": "no spans by OpenTelemetry's model",
        "too_large": "larger than a span may be",
        "redactor_failed": "could not be searched for credentials",
    }
    told = [f"{count(lost[name])} {text}" for name, text in reasons.items() if lost.get(name)]
    if told:
        remedy = "AGL_LOG_LEVEL=WARNING names them; mend the program or instrumentor that makes them"
        return Finding(FAIL, "refused", f"refused: {', '.join(told)}", remedy)
    return Finding(OK, "refused", "none was refused")


def _contexts(reading: Reading) -> Finding:
    """Trace data missing: a context that was never closed, or a rollout whose process is gone."""
    broken = [each for each in reading.rollouts if each.status == "running" and _is_gone(each.process)]
    dangling = [row for row in reading.rows if row.end_ns is None and _is_gone(row.process)]
    if broken or dangling:
        where = broken[0].rollout_id if broken else dangling[0].rollout_id
        text = (
            f"{plural(len(broken), 'rollout')} and {plural(len(dangling), 'span')} of processes that are gone "
            "were never closed"
        )
        return Finding(WARN, "context", text, f"agl show {safe(where)}; use 'with tracer.trace_context(...)'")
    empty = [each for each in reading.rollouts if each.status == "succeeded" and each.spans == 0]
    if empty:
        text = f"{plural(len(empty), 'rollout')} ended without a single span, newest {safe(empty[0].rollout_id)}"
        return Finding(WARN, "context", text, "is the library traced (rows above)? wrap the code in trace_context")
    return Finding(OK, "context", "every context of the newest rollouts was closed, and none is empty")


def _is_gone(process: str) -> bool:
    return bool(process) and is_process_gone(process)


def slow(reading: Reading, root: Path = Path("/")) -> Iterator[Finding]:
    """Performance: network latency, the cost of tracing, and whether processors, memory or disk are short."""
    limit = settings.get(settings.WATCH_LATENCY_S)
    text = f"the store's first answer took {reading.answer_s * 1e3:.0f} ms"
    if limit and reading.answer_s > limit:
        remedy = "AGL_STORE=http://first:4747,http://second:4747 names a second server; or a store on this machine"
        yield Finding(FAIL, "store latency", f"{text}, more than {limit:g} s", remedy)
    else:
        yield Finding(OK, "store latency", text)
    yield from _alerts(reading)
    yield _overhead()
    yield _pressure("processors", "cpu", root, "agl bench  (what tracing costs); lower AGL_SAMPLE_RATE")
    yield _pressure("disk waits", "io", root, "put the store on a local disk: AGL_STORE=/local/agent.db")


def _alerts(reading: Reading) -> Iterator[Finding]:
    """Alarm rules: each figure that has passed its threshold in the newest rollouts, and what helps."""
    if not reading.alerts:
        yield Finding(OK, "alerts", "none was raised in the newest rollouts")
        return
    where = next(row.rollout_id for row in reading.rows if row.name == semconv.ALERT)
    for name, number in sorted(reading.alerts.items()):
        what, remedy = _ALERTS.get(name, (f"{safe(name)} passed its threshold", "agl tail shows new ones"))
        text = f"{what}: {plural(number, 'alert')} in the newest rollouts, see agl show {safe(where)}"
        yield Finding(WARN, f"alert: {safe(name.partition('_')[0])[:_ALERT_NAME]}", text, remedy)


def _overhead() -> Finding:
    costly = {
        "AGL_DURABILITY=SYNC (a commit for each span)": settings.get(settings.DURABILITY) == "SYNC",
        "AGL_QUEUE_POLICY=BLOCK (waits for the store)": settings.get(settings.QUEUE_POLICY) == "BLOCK",
        "AGL_LOG_LEVEL=DEBUG (a line for each step)": settings.get(settings.LOG_LEVEL) == "DEBUG",
    }
    set_ones = [name for name, is_set in costly.items() if is_set]
    if set_ones:
        names = " ".join(dict.fromkeys(name.partition("=")[0] for name in set_ones))
        return Finding(WARN, "tracing cost", f"raised by {', '.join(set_ones)}", f"unset {names}")
    text = "no setting raises it; agl bench measures it here, AGL_SAMPLE_RATE and AGL_INSTRUMENT lower it"
    return Finding(OK, "tracing cost", text)


def _pressure(what: str, resource: str, root: Path, remedy: str) -> Finding:
    """Read how long the machine's programs waited for a resource; Linux 4.20 and newer say so."""
    try:
        text = (root / "proc/pressure" / resource).read_text("utf-8")
        share = float(text.partition("avg10=")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return Finding(NOTE, what, "this machine does not say how long programs wait for them", remedy)
    told = f"programs of this machine waited for them {share:.0f} % of the last 10 s"
    if share > _PRESSED:
        return Finding(WARN, what, told, remedy)
    return Finding(OK, what, told)


def memory(reading: Reading, root: Path = Path("/")) -> Iterator[Finding]:
    """Memory: of the machine, of traced programs, of what waits in them, and spans that never end."""
    threshold, used = settings.get(settings.WATCH_MEMORY), Meters(root).memory()
    text = f"{used:.0%} of the memory of this machine or container is used"
    if threshold and used > threshold:
        remedy = "give it more memory; AGL_MEMORY_THRESHOLD=33554432 bounds what tracing holds"
        yield Finding(FAIL, "memory", f"{text}, more than {threshold:.0%}: traces are brought to the disk", remedy)
    else:
        yield Finding(OK, "memory", text)
    yield _programs(reading)
    yield _held(reading)
    yield _never_ended(reading)


def _programs(reading: Reading) -> Finding:
    sizes = {each.process: resident_bytes(each.process) for each in reading.ledgers if each.is_alive}
    if not sizes:
        return Finding(OK, "programs", "none is writing to this store now")
    largest = max(sizes, key=lambda key: sizes[key])
    text = f"{plural(len(sizes), 'program writes', 'programs write')} now, the largest is {largest.split('/')[1]} with "
    text += f"{sizes[largest] / 2**20:,.0f} MB; tracing adds at most about 50 MB"
    if sizes[largest] > _BAD_MEMORY_BYTES:
        remedy = "does it grow? agl doctor --live; python -X tracemalloc finds what the program keeps"
        return Finding(NOTE, "programs", text, remedy)
    return Finding(OK, "programs", text)


def _held(reading: Reading) -> Finding:
    held = sum(max(0, each.account.waiting - each.account.spilled) for each in reading.ledgers if each.is_alive)
    size, threshold = held * _HEAP_BYTES, settings.get(settings.MEMORY_THRESHOLD)
    text = f"{plural(held, 'span waits', 'spans wait')} in memory, "
    text += f"about {size / 2**20:.1f} MB of at most {threshold / 2**20:.0f} MB"
    if size > threshold / 2:
        return Finding(
            FAIL, "waiting", text, "the store is too slow: see 'store latency'; AGL_SPILL_BYTES must not be 0"
        )
    return Finding(OK, "waiting", text)


def _never_ended(reading: Reading) -> Finding:
    """Resources that are not released: spans that a living process began long ago and has not ended."""
    until = (time.time() - _LONG_OPEN_S) * 1e9
    found = [row for row in reading.rows if row.end_ns is None and row.start_ns < until and not _is_gone(row.process)]
    if found:
        text = f"{plural(len(found), 'span')} open for more than an hour, oldest {safe(found[0].name)}"
        remedy = f"agl show {safe(found[0].rollout_id)}; end them in 'finally', or use 'with'"
        return Finding(WARN, "open spans", text, remedy)
    return Finding(OK, "open spans", "none is open for more than an hour")


def resident_bytes(process: str) -> int:
    """Return the resident memory of the process that a key names; 0 when it cannot be seen from here."""
    import psutil  # noqa: PLC0415 - only where a program is writing

    pid = process.split("/")[1] if process.count("/") > 1 else ""
    try:
        return int(psutil.Process(int(pid)).memory_info().rss)
    except (psutil.Error, ValueError):
        return 0


def twice(reading: Reading) -> Iterator[Finding]:
    """Duplicates: what retries sent twice is stored once; what two instrumentors record is not."""
    repeated = reading.account.duplicate
    text = f"{plural(repeated, 'span was', 'spans were')} sent again and recognised: "
    text += "each is stored once, by trace and span id"
    yield Finding(OK, "retries", text if repeated else "none was sent again; if one is, it is stored once")
    rows = {(row.trace_id, row.span_id): row for row in reading.rows}
    answers: Counter[tuple[str, str]] = Counter()
    for row in reading.rows:
        above = rows.get((row.trace_id, row.parent_id or ""))
        is_inner = above is None or above.facts.response_id != row.facts.response_id
        if row.facts.kind in COUNTED_KINDS and row.facts.response_id and is_inner:
            answers[row.rollout_id, row.facts.response_id] += 1
    doubled = [key for key, number in answers.items() if number > 1]
    if doubled:
        number = plural(len(doubled), "answer of a model is", "answers of a model are")
        text = f"{number} in two spans: two instrumentors trace the same library"
        remedy = f"agl show {safe(doubled[0][0])}; turn one off: AGL_INSTRUMENT=-NAME"
        yield Finding(WARN, "recorded twice", text, remedy)
    else:
        yield Finding(OK, "recorded twice", "no model's answer is in two spans")


def library_finding(reading: Reading) -> Finding:
    """Framework compatibility: what to try when a library behaves differently under tracing."""
    _ = reading
    text = "leave one instrumentor out after the other; a wrong version is in the row 'versions'"
    return Finding(NOTE, "library", text, "agl run --no-instrument NAME python program.py")
