"""How well rollouts and their traces do, and alerts when that passes a threshold."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from agentlightning import semconv, settings
from agentlightning._internal.guard import guard
from agentlightning.tracer.provider import get_tracer

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("agentlightning.runner")

WINDOW = 100
"""Rollouts that a rate looks back at."""
FEWEST = 10
"""Rollouts that a rate needs to mean anything."""


class Alert(NamedTuple):
    """A figure that has passed its threshold."""

    name: str
    """``tracing_rate``, ``failure_rate`` or ``duration_s``."""
    value: float
    threshold: float


class Health:
    """Counts of a runner. Thread-safe.

    An alert comes when a figure passes its threshold and not again before it has been back; one for a duration comes
    for each rollout that takes too long.
    """

    def __init__(self, on_alert: Callable[[Alert], None] | None = None) -> None:
        """Start with nothing counted; *on_alert* is called with each alert, and what it raises is logged."""
        self._on_alert = on_alert
        self._lock = threading.Lock()
        self._traced: deque[bool] = deque(maxlen=WINDOW)
        self._failed: deque[bool] = deque(maxlen=WINDOW)
        self._raised: set[str] = set()

    def __getstate__(self) -> dict[str, object]:
        """Leave the lock behind; every process counts for itself."""
        return {"_on_alert": self._on_alert}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing counted."""
        Health.__init__(self, state["_on_alert"])

    def note(self, *, traced: bool, failed: bool) -> None:
        """Count a rollout.

        Args:
            traced: All of its spans could be read from the store when it was over.
            failed: Its attempt did not succeed.
        """
        with self._lock:
            self._traced.append(traced)
            self._failed.append(failed)

    @property
    def tracing_success_rate(self) -> float:
        """Share of the last 100 rollouts whose traces were complete in the store at once; 1.0 before the first."""
        with self._lock:
            return _share(self._traced, 1.0)

    @property
    def failure_rate(self) -> float:
        """Share of the last 100 rollouts that did not succeed; 0.0 before the first."""
        with self._lock:
            return _share(self._failed, 0.0)

    def check(self, duration_s: float) -> list[Alert]:
        """Compare the figures with the settings, raise what is new, and return it; call it inside a rollout.

        An alert is an event on a span ``agentlightning.alert`` of the running rollout.
        """
        alerts = [*self._rates(), *_too_long(duration_s)]
        for alert in alerts:
            log.warning("alert: %s is %.3f, the threshold is %.3f", *alert)
            with guard("runner.alert"), get_tracer().start_as_current_span(semconv.ALERT) as span:
                span.add_event(semconv.ALERT, {"name": alert.name, "value": alert.value, "threshold": alert.threshold})
            self._tell(alert)
        return alerts

    def _rates(self) -> list[Alert]:
        with self._lock:
            if len(self._traced) < FEWEST:
                return []
            lowest, highest = settings.get(settings.ALERT_TRACING_RATE), settings.get(settings.ALERT_FAILURE_RATE)
            traced, failed = _share(self._traced, 1.0), _share(self._failed, 0.0)
            passed = {
                "tracing_rate": (traced, lowest, traced < lowest),
                "failure_rate": (failed, highest, failed > highest),
            }
            new = [
                Alert(name, value, threshold)
                for name, (value, threshold, is_bad) in passed.items()
                if is_bad and name not in self._raised
            ]
            self._raised = {name for name, (_, _, is_bad) in passed.items() if is_bad}
            return new

    def _tell(self, alert: Alert) -> None:
        if self._on_alert is None:
            return
        try:
            self._on_alert(alert)
        except Exception:
            log.exception("the function for alerts failed")


def _too_long(duration_s: float) -> list[Alert]:
    longest = settings.get(settings.ALERT_DURATION_S)
    return [Alert("duration_s", duration_s, longest)] if 0 < longest < duration_s else []


def _share(values: deque[bool], default: float) -> float:
    return sum(values) / len(values) if values else default
