"""Every setting: name, type, unit, range and default, in one table.

Where a value comes from, first match wins: an argument of the call, ``agentlightning.configure(...)``, the
environment variable ``AGL_*``, the default. There is no configuration file. Standard library only.

A *live* setting may change at any time; the others only before they are first used, afterwards ``configure`` raises.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from agentlightning.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T", bool, int, float, str)

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "OFF")


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One setting; its docstring below the definition says what it is for."""

    variable: str
    """Name of the environment variable."""
    type: type[T]
    default: T
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    @property
    def name(self) -> str:
        """Name as a keyword of ``configure``: ``AGL_LOG_LEVEL`` is ``log_level``."""
        return self.variable.removeprefix("AGL_").lower()

    def parse(self, value: object, source: str) -> T:
        """Return *value* in the setting's type.

        Raises:
            SettingError: Wrong type or out of range; the message names *source*, the type and the range.
        """
        try:
            parsed = self._convert(value)
        except (TypeError, ValueError):
            raise SettingError(self._complaint(value, source)) from None
        if not self._in_range(parsed):
            raise SettingError(self._complaint(value, source))
        return parsed

    def _convert(self, value: object) -> Any:  # noqa: ANN401 - one of four types, which the caller knows
        if self.type is bool:
            word = str(value).strip().lower()
            if word not in _TRUE and word not in _FALSE:
                raise ValueError(word)
            return word in _TRUE
        if self.choices:
            return str(value).strip().upper()
        if self.type is str:
            return str(value)
        if isinstance(value, bool):
            raise TypeError
        return self.type(value)  # type: ignore[arg-type] - int() and float() raise for what they cannot take

    def _in_range(self, value: object) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, str):
            return True
        low = float("-inf") if self.minimum is None else self.minimum
        high = float("inf") if self.maximum is None else self.maximum
        return low <= float(value) <= high  # type: ignore[arg-type] - a number here; NaN is out of every range

    def _complaint(self, value: object, source: str) -> str:
        if self.choices:
            wanted = "one of " + ", ".join(self.choices)
        elif self.type is bool:
            wanted = "1 or 0"
        else:
            wanted = {int: "a whole number", float: "a number", str: "text"}[self.type]
            if self.maximum is not None:
                wanted += f" from {self.minimum:g} to {self.maximum:g}"
            elif self.minimum is not None:
                wanted += f" of at least {self.minimum:g}"
        return f"{source} is {value!r}; set it to {wanted}"


ENABLED = Setting("AGL_ENABLED", bool, default=True)
"""Whether anything is captured at all; ``0`` costs nothing measurable."""

STORE = Setting("AGL_STORE", str, default="")
"""URL or path of the default store; empty means ``agentlightning.db`` in the user's data directory."""

STORE_TOKEN = Setting("AGL_STORE_TOKEN", str, default="")
"""Token for a store behind HTTP; a server that listens beyond this machine wants one."""

STORE_CA = Setting("AGL_STORE_CA", str, default="")
"""PEM file with the certificates to trust for a store behind HTTPS; empty: the system's."""

HTTP_RETRIES = Setting("AGL_HTTP_RETRIES", int, default=4, minimum=0, maximum=100)
"""How often a request to a store is repeated before the next address is tried or the call fails."""

HTTP_RETRY_FIRST_S = Setting("AGL_HTTP_RETRY_FIRST_S", float, default=0.25, minimum=0, maximum=60)
"""Pause in seconds before the first repetition; each further one is twice as long."""

HTTP_RETRY_CAP_S = Setting("AGL_HTTP_RETRY_CAP_S", float, default=5.0, minimum=0, maximum=600)
"""Longest pause in seconds between two repetitions."""

HTTP_DEADLINE_S = Setting("AGL_HTTP_DEADLINE_S", float, default=30.0, minimum=0, maximum=3600)
"""Time in seconds after which a request is not repeated any more."""

HTTP_TIMEOUT_S = Setting("AGL_HTTP_TIMEOUT_S", float, default=10.0, minimum=0.1, maximum=600)
"""Longest wait in seconds for a connection and for an answer."""

PROJECT = Setting("AGL_PROJECT", str, default="default")
"""Project that rollouts belong to."""

LOG_LEVEL = Setting("AGL_LOG_LEVEL", str, default="OFF", choices=_LEVELS, live=True)
"""Level of our own log on stderr. At OFF records still reach the handlers of a program that uses the package, but not
under ``agl run``, where the program does not know of us."""

SIGTERM = Setting("AGL_SIGTERM", bool, default=True)
"""Whether a SIGTERM that nobody handles first writes what is waiting, for at most 1 s."""

INSTRUMENT = Setting("AGL_INSTRUMENT", str, default="")
"""Instrumentors, comma-separated: names to use (``openai,smolagents``), or to leave out (``-openai``); empty: all."""

FLUSH_TIMEOUT_S = Setting("AGL_FLUSH_TIMEOUT_S", float, default=2.0, minimum=0, maximum=3600, live=True)
"""Longest time in seconds that the end of a ``trace_context`` or of the program waits for the store."""

QUEUE_BYTES = Setting("AGL_QUEUE_BYTES", int, default=16 * 2**20, minimum=2**16)
"""Bound of the queue between the program and the worker thread, in bytes of heap (an estimate)."""

SPILL_BYTES = Setting("AGL_SPILL_BYTES", int, default=512 * 2**20, minimum=0)
"""Most bytes on disk of spans that a store cannot take now; beyond them the oldest are dropped. 0: none are spilled."""

MAX_VALUE_BYTES = Setting("AGL_MAX_VALUE_BYTES", int, default=2**20, minimum=256, live=True)
"""An attribute value longer than this, in bytes, is cut and marked; token ids and log-probabilities never are."""

ALERT_TRACING_RATE = Setting("AGL_ALERT_TRACING_RATE", float, default=0.99, minimum=0, maximum=1, live=True)
"""A runner raises an alert when a smaller share of its rollouts has a complete trace in the store; 0: never."""

ALERT_FAILURE_RATE = Setting("AGL_ALERT_FAILURE_RATE", float, default=1.0, minimum=0, maximum=1, live=True)
"""A runner raises an alert when a larger share of its rollouts does not succeed; 1: never."""

ALERT_DURATION_S = Setting("AGL_ALERT_DURATION_S", float, default=0.0, minimum=0, live=True)
"""A runner raises an alert for a rollout that takes longer than this, in seconds; 0: never."""

MANAGED_STORE = Setting("AGL_MANAGED_STORE", bool, default=True)
"""Whether a trainer's strategy puts the store behind a wrapper or server of its own."""

CURRENT_ROLE = Setting("AGL_CURRENT_ROLE", str, default="BOTH", choices=("ALGORITHM", "RUNNER", "BOTH"))
"""What a process of the client-server strategy does; ``both`` starts everything on this machine."""

SERVER_HOST = Setting("AGL_SERVER_HOST", str, default="127.0.0.1")
"""Where the store server of the client-server strategy is."""

SERVER_PORT = Setting("AGL_SERVER_PORT", int, default=4747, minimum=0, maximum=65535)
"""Port of that server, where algorithm and runners are started each for itself."""


def all_settings() -> Iterator[Setting[Any]]:
    """Yield every setting in the order of this file."""
    for value in globals().values():
        if isinstance(value, Setting):
            yield cast("Setting[Any]", value)


class _Values:
    """What ``configure`` set, and which settings were used already."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.configured: dict[str, Any] = {}
        self.used: dict[str, Any] = {}
        """Values that were asked for already; reading the environment costs more than emitting a reward."""
        self.handler: logging.Handler | None = None


_values = _Values()


def get(setting: Setting[T]) -> T:
    """Return the value that holds now, and mark the setting as used. The environment is read once for each setting.

    Raises:
        SettingError: The environment variable holds nonsense.
    """
    try:
        return _values.used[setting.variable]
    except KeyError:
        value = _values.used[setting.variable] = lookup(setting)[0]
        return value


def forget() -> None:
    """Read the environment anew: after it was changed on purpose, in a child process or in a test."""
    _values.used.clear()


def lookup(setting: Setting[T]) -> tuple[T, str]:
    """Return the value of *setting* and where it came from: ``configure``, the variable's name or ``default``.

    Raises:
        SettingError: The environment variable holds nonsense.
    """
    if setting.name in _values.configured:
        return _values.configured[setting.name], "configure"
    text = os.environ.get(setting.variable)
    if text is not None and text.strip():
        return setting.parse(text, setting.variable), setting.variable
    return setting.default, "default"


def configure(**values: object) -> None:
    """Set settings by name: ``configure(log_level="DEBUG", project="demo")``. All are checked before any is set.

    Raises:
        SettingError: Unknown name, wrong type, out of range, or a setting that is not live was used already.
    """
    table = {setting.name: setting for setting in all_settings()}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        setting = table.get(name)
        if setting is None:
            msg = f"there is no setting {name!r}; use one of {', '.join(table)}"
            raise SettingError(msg)
        if not setting.live and _values.used.get(setting.variable, value) != value:
            msg = f"{name} cannot change after it was used; call configure() before anything is traced"
            raise SettingError(msg)
        checked[name] = setting.parse(value, name)
    with _values.lock:
        _values.configured.update(checked)
        for name in checked:
            _values.used.pop(table[name].variable, None)
    if LOG_LEVEL.name in checked:
        apply_log_level()


def check_environment() -> None:
    """Parse every ``AGL_*`` variable that is a setting.

    Raises:
        SettingError: The first one that holds nonsense.
    """
    for setting in all_settings():
        lookup(setting)


def apply_log_level() -> None:
    """Set the level of the logger ``agentlightning`` and attach or detach its handler on stderr.

    At OFF the logger has the silent handler that ``_internal.guard`` gave it, so that Python's last-resort handler
    never writes into the program's stderr.
    """
    logger = logging.getLogger("agentlightning")
    level = get(LOG_LEVEL)
    with _values.lock:
        if _values.handler is not None:
            logger.removeHandler(_values.handler)
            _values.handler = None
        if level != "OFF":
            _values.handler = logging.StreamHandler(sys.stderr)
            _values.handler.setFormatter(logging.Formatter("agl %(levelname)s %(name)s: %(message)s"))
            logger.addHandler(_values.handler)
    # Under ``agl run`` the program did not ask for us: nothing of ours may appear in its own log either.
    quiet = logging.CRITICAL + 1 if os.environ.get("AGL_ATTEMPT_ID") else logging.NOTSET
    logger.setLevel(quiet if level == "OFF" else level)
