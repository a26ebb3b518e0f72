"""The resource watch: one alert for each time that a figure passes its threshold, with the action of its kind."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import add_alert_listener, configure, remove_alert_listener
from agentlightning._internal.guard import failures
from agentlightning.pipeline import sampling
from agentlightning.pipeline.lane import Health
from agentlightning.pipeline.watch import Actions, Meters, ResourceAlert, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Machine(Meters):
    """A machine that says what the test wants."""

    def __init__(self) -> None:
        """Begin idle."""
        self.memory_share = 0.0
        self.cpu_share: float | None = 0.0

    def memory(self) -> float:
        return self.memory_share

    def processors(self, now: float, window_s: float) -> float | None:
        _ = now, window_s
        return self.cpu_share


class Setup:
    """A watch with everything it talks to."""

    def __init__(self) -> None:
        """Begin well."""
        self.machine, self.health = Machine(), Health()
        self.events: list[ResourceAlert] = []
        self.done: list[str] = []
        actions = Actions(self.events.append, lambda: self.done.append("free"), self._switch)
        self.watch = Watch(self.health, actions, self.machine)

    def _switch(self) -> bool:
        self.done.append("switch")
        return True

    def look(self) -> None:
        """Look now, whenever the last time was."""
        vars(self.watch)["_next"] = 0.0
        self.watch.look()


@pytest.fixture(name="setup")
def _setup() -> Iterator[Setup]:
    """Watch everything at the thresholds of the seed."""
    configure(watch_memory=0.8, watch_cpu=0.9, watch_latency_s=1.0, watch_errors=0.05)
    yield Setup()
    while sampling.lowered() < 1:
        sampling.lower(busy=False)


def test_short_memory_is_freed_and_told_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 80 %: one event, the clean-up, a collection; again only after it was below."""
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    for share in (0.8, 0.81, 0.95, 0.79, 0.85, 0.5, 0.85):
        setup.machine.memory_share = share
        setup.look()
    assert setup.events == [ResourceAlert("memory", 0.81, 0.8), ResourceAlert("memory", 0.85, 0.8)]
    assert (setup.done, len(collected)) == (["free"], 1)  # at most every 10 s


def test_busy_processors_lower_sampling_only_where_asked_for(setup: Setup) -> None:
    """By default an alert and nothing else; with the setting the rate is halved, and comes back when it is over."""
    setup.machine.cpu_share = 0.95
    setup.look()
    setup.look()
    assert setup.events == [ResourceAlert("cpu", 0.95, 0.9)]
    assert sampling.lowered() == 1.0
    configure(cpu_lowers_sampling=True)
    setup.look()
    setup.look()
    assert sampling.lowered() == 0.25
    setup.machine.cpu_share = None
    setup.look()
    assert sampling.lowered() == 0.25
    setup.machine.cpu_share = 0.2
    setup.look()
    setup.look()
    assert sampling.lowered() == 1.0


def test_a_slow_store_is_left_for_the_next_one(setup: Setup) -> None:
    """Longer than 1 s for a batch: one event and the next server; a delivery under way counts too."""
    setup.health.slowest_s = 1.5
    setup.look()
    assert setup.events == [ResourceAlert("latency", 1.5, 1.0)]
    setup.look()
    setup.health.since = 1.0  # long ago
    setup.look()
    assert [event.name for event in setup.events] == ["latency", "latency"]
    assert setup.done == ["switch", "switch"]


def test_errors_are_logged(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """More than 5 % of the last deliveries: one event and one line; fewer than ten say nothing."""
    setup.health.outcomes.extend([False] * 9)
    setup.look()
    assert not setup.events
    setup.health.outcomes.extend([True] * 91)
    with caplog.at_level(logging.ERROR, "agentlightning.pipeline"):
        setup.look()
    assert setup.events == [ResourceAlert("errors", 0.09, 0.05)]
    assert "9 of the last 100 deliveries" in caplog.text


def test_listeners_are_told_and_may_fail(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's function gets each alert; what it raises is counted and keeps nobody from theirs."""
    monkeypatch.setattr(failures, "loud", False)
    monkeypatch.setattr(failures, "_counts", {})
    seen: list[ResourceAlert] = []

    def bad(_alert: ResourceAlert) -> None:
        raise MemoryError

    add_alert_listener(bad)
    add_alert_listener(seen.append)
    try:
        setup.machine.memory_share = 0.9
        setup.look()
    finally:
        remove_alert_listener(bad)
        remove_alert_listener(seen.append)
    assert seen == setup.events != []
    assert failures.counts() == {"watch.listener": 1}


def test_a_threshold_of_zero_watches_nothing(setup: Setup) -> None:
    """Each figure can be turned off."""
    configure(watch_memory=0, watch_cpu=0, watch_latency_s=0, watch_errors=0)
    setup.machine.memory_share = setup.machine.cpu_share = 1.0
    setup.health.slowest_s = 100.0
    setup.health.outcomes.extend([False] * 100)
    setup.look()
    assert not setup.events
    assert not setup.done


FILES: dict[str, dict[str, str]] = {
    "machine": {"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 100 kB\n"},
    "cgroup 2": {
        "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 900 kB\n",
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "5\n",
        "sys/fs/cgroup/a/memory.max": "1000\n",
        "sys/fs/cgroup/a/memory.current": "950\n",
        "sys/fs/cgroup/a/memory.stat": "anon 900\ninactive_file 50\n",
        "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
    },
    "cgroup 1": {
        "proc/meminfo": "",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "950\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 50\n",
    },
}


@pytest.mark.parametrize("kind", FILES)
def test_memory_is_read_where_the_limit_is(tmp_path: Path, kind: str) -> None:
    """Of the machine, of a control group of version 2 above ours, of version 1: 90 % each."""
    for name, content in FILES[kind].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    meters = Meters(tmp_path)
    assert meters.memory() == pytest.approx(0.9)
    if kind == "cgroup 2":
        assert meters.allowed() == 0.5


def test_processors_are_measured_over_the_window() -> None:
    """Nothing before the window is over; then the share of what may be used."""
    meters: Any = Meters()
    assert meters.processors(100.0, 10.0) is None
    assert meters.processors(109.0, 10.0) is None
    share = meters.processors(110.0, 10.0)
    assert 0 <= share < 1
    assert 0 < Meters().memory() < 1
