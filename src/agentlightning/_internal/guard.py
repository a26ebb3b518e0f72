"""The one guard around telemetry that runs on a user's thread.

Silent for users: an error of ours is counted, logged once for each place, and the program goes on.
Loud under test: with ``guard.loud = True`` it is raised.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger("agentlightning")
# Without a handler of its own Python's last resort would write our warnings into the program's stderr.
log.addHandler(logging.NullHandler())


class Guard(contextlib.AbstractContextManager["Guard"]):
    """Swallow, count and log errors of telemetry code; use as ``with guard("place"):``.

    Thread-safe. Only ``Exception`` is swallowed: KeyboardInterrupt and SystemExit belong to the user.
    """

    def __init__(self, place: str = "", *, can_be_loud: bool = True) -> None:
        """Make a guard for *place*, a short fixed name such as ``processor.on_end``; see ``guard`` and ``tally``."""
        self._place = place
        self._can_be_loud = can_be_loud

    def __enter__(self) -> Guard:  # noqa: PYI034 - there are no subclasses
        """Return the guard; nothing is set up."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        """Swallow an ``Exception``; let everything else pass."""
        if not isinstance(exc, Exception):
            return False
        failures.note(self._place, exc)
        return not (failures.loud and self._can_be_loud)


class Failures:
    """What the guards caught, by place."""

    def __init__(self) -> None:
        """Start with nothing caught."""
        self.loud = False
        """Raise instead of swallowing; the test suite sets it."""
        self._counts: dict[str, int] = {}
        self._lock = threading.RLock()  # a signal handler may come in between and fail too

    def note(self, place: str, exc: BaseException) -> None:
        """Count a failure; log the first one of each place with its traceback, at WARNING."""
        with self._lock:
            self._counts[place] = self._counts.get(place, 0) + 1
            first = self._counts[place] == 1
        if first:
            with contextlib.suppress(Exception):  # a broken logging handler of the user's
                log.warning("telemetry failed in %s: %s", place, type(exc).__name__, exc_info=exc)

    def after_fork(self) -> None:
        """Begin anew in a child, where a thread of the parent may seem to hold the lock for ever."""
        self._lock = threading.RLock()
        self._counts = {}

    def counts(self) -> dict[str, int]:
        """Return how many failures each place had."""
        with self._lock:
            return dict(self._counts)


failures = Failures()


@functools.cache
def guard(place: str) -> Guard:
    """Return the guard of *place*; it has no state of its own, so one serves all threads."""
    return Guard(place)


@functools.cache
def tally(place: str) -> Guard:
    """Return a guard of *place* that is never loud: for what fails because of the program's data, with a way out."""
    return Guard(place, can_be_loud=False)
