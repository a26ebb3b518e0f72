"""The resource watch: memory, processors, the time that stores take, and how often they fail.

A figure that passes its threshold makes one event in the trace, calls the program's listeners, and has the action of
its kind taken: memory is freed, a slow server is left for the next one, errors are logged, and, only where that is
asked for, the sample rate is lowered while processors are short. Runs in the pipeline's second thread, at most once a
second and only while something is traced. Files of the system are read where there are any: nothing has to be loaded.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentlightning import semconv, settings
from agentlightning._internal.guard import guard
from agentlightning._internal.ids import new_span_id
from agentlightning.pipeline import sampling
from agentlightning.types.record import EventRecord, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.pipeline.lane import Health

log = logging.getLogger("agentlightning.pipeline")

EVERY_S = 1.0
"""How often the figures are looked at."""
_FREE_EVERY_S = 10.0
"""How often memory is freed while it stays short: a collection stops the program for a moment."""
_FEWEST_DELIVERIES = 10
"""Deliveries that an error rate needs to mean anything."""
_BACK = 0.9
"""An alert is over below this part of its threshold: a figure at its edge makes one event, not many."""


class ResourceAlert(NamedTuple):
    """A figure that has passed its threshold."""

    name: str
    """``memory`` or ``cpu``: shares from 0 to 1; ``latency``: seconds for a batch; ``errors``: share of deliveries."""
    value: float
    threshold: float


def record_of(alert: ResourceAlert, like: SpanRecord, counter: int) -> SpanRecord:
    """Return the span that holds *alert* as an event, beside *like*; *counter* is its place in the order."""
    now = time.time_ns()
    return SpanRecord(
        rollout_id=like.rollout_id,
        attempt_id=like.attempt_id,
        counter=counter,
        trace_id=like.trace_id,
        span_id=f"{new_span_id():016x}",
        parent_id=like.parent_id,
        name=semconv.ALERT,
        start_ns=now,
        end_ns=now,
        events=[EventRecord(semconv.ALERT, now, alert._asdict())],
        resource=like.resource,
        scope_name="agentlightning",
        process=like.process,
    )


class _Listeners:
    """Who is told of alerts in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.all: tuple[Callable[[ResourceAlert], object], ...] = ()

    def add(self, listener: Callable[[ResourceAlert], object]) -> None:
        """Call *listener* with alerts from now on; twice changes nothing. Thread-safe."""
        with self._lock:
            if listener not in self.all:
                self.all = (*self.all, listener)

    def remove(self, listener: Callable[[ResourceAlert], object]) -> None:
        """Call *listener* no more; one that was never added changes nothing. Thread-safe."""
        with self._lock:
            self.all = tuple(one for one in self.all if one != listener)


_listeners = _Listeners()


def add_alert_listener(listener: Callable[[ResourceAlert], object]) -> None:
    """Call *listener* with each alert of the resource watch, in a thread of the pipeline; twice changes nothing.

    What it raises is counted and goes no further. Thread-safe.
    """
    _listeners.add(listener)


def remove_alert_listener(listener: Callable[[ResourceAlert], object]) -> None:
    """Stop calling *listener*; an unknown one is ignored. Thread-safe."""
    _listeners.remove(listener)


class Actions(NamedTuple):
    """What the watch can do; each may take a moment and never raises for a store."""

    note: Callable[[ResourceAlert], object]
    """Write the event."""
    free: Callable[[], object]
    """Bring to the disk and let go what takes memory."""
    switch_server: Callable[[], bool]
    """Use the next server; False where there is none."""


class Watch:
    """Looks at the figures. Used by one thread."""

    def __init__(self, health: Health, actions: Actions, meters: Meters | None = None) -> None:
        """Watch deliveries in *health*; the system through *meters*."""
        self._health = health
        self._actions = actions
        self._meters = meters or Meters()
        self._raised: set[str] = set()
        self._next = 0.0
        self._freed_at = float("-inf")

    def look(self) -> None:
        """Look at all figures, unless that was done within the last second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        self._look_at_memory(now)
        self._look_at_processors(now)
        self._look_at_stores()

    def _look_at_memory(self, now: float) -> None:
        threshold = settings.get(settings.WATCH_MEMORY)
        if not threshold:
            return
        self._judge("memory", self._meters.memory(), threshold)
        if "memory" in self._raised and now - self._freed_at >= _FREE_EVERY_S:
            self._freed_at = now
            self._actions.free()
            gc.collect()

    def _look_at_processors(self, now: float) -> None:
        threshold = settings.get(settings.WATCH_CPU)
        share = self._meters.processors(now, settings.get(settings.WATCH_CPU_S))
        if share is None:
            return
        if threshold:
            self._judge("cpu", share, threshold)
        is_short = bool(threshold) and "cpu" in self._raised
        if sampling.lowered() < 1 or (is_short and settings.get(settings.CPU_LOWERS_SAMPLING)):
            factor = sampling.lower(busy=is_short and settings.get(settings.CPU_LOWERS_SAMPLING))
            log.warning(
                "processors are %s: the sample rate is taken %.3g times", "short" if is_short else "free", factor
            )

    def _look_at_stores(self) -> None:
        threshold, slowest = settings.get(settings.WATCH_LATENCY_S), self._health.take_slowest_s()
        if threshold and self._judge("latency", slowest, threshold) and self._actions.switch_server():
            log.warning("a store took %.1f s for a batch: its next server is used", slowest)
        threshold, outcomes = settings.get(settings.WATCH_ERRORS), list(self._health.outcomes)
        if threshold and len(outcomes) >= _FEWEST_DELIVERIES:
            share = outcomes.count(False) / len(outcomes)
            if self._judge("errors", share, threshold):
                log.error("%d of the last %d deliveries to stores failed", outcomes.count(False), len(outcomes))

    def _judge(self, name: str, value: float, threshold: float) -> bool:
        """Raise the alert *name* when *value* has passed *threshold* and did not before; True when it was raised."""
        if value <= threshold:
            if value < threshold * _BACK:
                self._raised.discard(name)
            return False
        if name in self._raised:
            return False
        self._raised.add(name)
        alert = ResourceAlert(name, value, threshold)
        log.warning("%s is %.3g, above %.3g", *alert)
        with guard("watch.note"):
            self._actions.note(alert)
        for listener in _listeners.all:
            with guard("watch.listener"):
                listener(alert)
        return True


class Meters:
    """Reads what this process and its machine use, from the files of the system where there are any."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Read below *root*."""
        self._root = root
        self._cgroups = self._find_cgroups()
        self._cpu: tuple[float, float] | None = None

    def memory(self) -> float:
        """Return the share of memory that is used: of the cgroup's limit or of the machine, whichever is larger."""
        return max([self._of_machine(), *(_of_cgroup(folder) for folder in self._cgroups)])

    def processors(self, now: float, window_s: float) -> float | None:
        """Return the share of its processors that this process used in *window_s* seconds; None until they are over."""
        used = time.process_time()
        if self._cpu is None:
            self._cpu = (now, used)
            return None
        since, before = self._cpu
        if now - since < window_s:
            return None
        self._cpu = (now, used)
        return (used - before) / (now - since) / self.allowed()

    def allowed(self) -> float:
        """Return how many processors this process may use: its affinity, or the quota of its cgroup."""
        try:
            cores = float(len(os.sched_getaffinity(0)))
        except (AttributeError, OSError):  # macOS, Windows
            cores = float(os.cpu_count() or 1)
        for folder in self._cgroups:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
            if quota.isdigit() and period.strip().isdigit():
                cores = min(cores, int(quota) / int(period))
        return max(cores, 0.01)

    def _of_machine(self) -> float:
        values: dict[str, int] = {}
        for line in _text(self._root / "proc/meminfo").splitlines():
            name, _, rest = line.partition(":")
            number = rest.split()
            if number and number[0].isdigit():
                values[name] = int(number[0])
        if values.get("MemTotal") and "MemAvailable" in values:
            return 1 - values["MemAvailable"] / values["MemTotal"]
        if self._root != Path("/"):
            return 0.0
        import psutil  # noqa: PLC0415 - only where there is no /proc

        return psutil.virtual_memory().percent / 100

    def _find_cgroups(self) -> list[Path]:
        """Return the folders of this process's control groups, own and above it, as a container shows them."""
        base = self._root / "sys/fs/cgroup"
        found = [base / "memory", base]
        for line in _text(self._root / "proc/self/cgroup").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if not controllers or controllers == "memory":
                folder = base / controllers / path.strip("/")
                found += [folder, *(parent for parent in folder.parents if base in parent.parents)]
        return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _of_cgroup(folder: Path) -> float:
    """Return the share of the limit of a control group that is used without the files it has cached; 0 for no limit."""
    for limit_name, used_name, cached_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _text(folder / limit_name).strip(), _text(folder / used_name).strip()
        if limit.isdigit() and used.isdigit() and 0 < int(limit) < 1 << 60:
            cached = 0
            for line in _text(folder / "memory.stat").splitlines():
                name, _, number = line.partition(" ")
                if name == cached_name and number.isdigit():
                    cached = int(number)
            return max(0, int(used) - cached) / int(limit)
    return 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
