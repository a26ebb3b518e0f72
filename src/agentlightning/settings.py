"""Every setting: name, type, unit, range and default, in one table.

Where a value comes from, first match wins: an argument of the call, ``agentlightning.configure(...)``, the
environment variable ``AGL_*``, the default. There is no configuration file. Standard library only.

A *live* setting may change at any time; the others only before they are first used, afterwards ``configure`` raises.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from agentlightning.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

D = TypeVar("D")
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
    check: str = ""
    """``module:function`` that raises ``SettingError`` for a value that makes no sense, loaded when it is needed."""
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
        if self.check:
            module, _, function = self.check.partition(":")
            getattr(importlib.import_module(module), function)(parsed)
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
            return _text(value)
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


def _text(value: object) -> str:
    """Return *value* as the text that a variable of the environment would hold: a list is separated by commas."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    items = list(cast("Iterable[object]", value))
    if all(isinstance(item, str) for item in items):
        return ",".join(map(str, items))
    import json  # noqa: PLC0415 - for lists of rules only

    return json.dumps(items)


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

HTTP = Setting("AGL_HTTP", bool, default=False)
"""Whether model calls of HTTP clients (httpx, httpx2, requests, aiohttp) are recorded that no instrumentor sees;
``agl run --http``."""

FLUSH_TIMEOUT_S = Setting("AGL_FLUSH_TIMEOUT_S", float, default=2.0, minimum=0, maximum=3600, live=True)
"""Longest time in seconds that the end of a ``trace_context`` or of the program waits for the store."""

QUEUE_BYTES = Setting("AGL_QUEUE_BYTES", int, default=16 * 2**20, minimum=2**16)
"""Bound of the queue between the program and the worker thread, in bytes of heap (an estimate)."""

SPILL_BYTES = Setting("AGL_SPILL_BYTES", int, default=512 * 2**20, minimum=0)
"""Most bytes on disk of spans that a store cannot take now; beyond them the oldest are dropped, rewards and exceptions
after all others. 0: none are spilled."""

MAX_VALUE_BYTES = Setting("AGL_MAX_VALUE_BYTES", int, default=2**20, minimum=256, live=True)
"""An attribute value longer than this, in bytes, is cut and marked; token ids and log-probabilities never are."""

SAMPLE_RATE = Setting("AGL_SAMPLE_RATE", float, default=1.0, minimum=0, maximum=1, live=True)
"""Share of traces that are kept; the trace id decides, so all processes agree. Rewards and exceptions always are."""

SAMPLE_RULES = Setting(
    "AGL_SAMPLE_RULES", str, default="", check="agentlightning.pipeline.sampling:parse_rules", live=True
)
"""Rules for single spans, separated by ``;``: ``name*=0.1; heartbeat=drop; @tool.name:search=keep``; the first that
matches holds instead of ``sample_rate``."""

TAIL_ERRORS = Setting("AGL_TAIL_ERRORS", bool, default=False, live=True)
"""Tail rule: a trace that was not sampled is kept as a whole when a span of it has status ERROR."""

TAIL_REWARDS = Setting("AGL_TAIL_REWARDS", bool, default=False, live=True)
"""Tail rule: a trace that was not sampled is kept as a whole when there is a reward in it."""

TAIL_SLOW_S = Setting("AGL_TAIL_SLOW_S", float, default=0.0, minimum=0, live=True)
"""Tail rule: ... when a span of it lasts at least so many seconds; 0: no such rule."""

TAIL_COST_USD = Setting("AGL_TAIL_COST_USD", float, default=0.0, minimum=0, live=True)
"""Tail rule: ... when a call of it costs at least so many US dollars; 0: no such rule."""

TAIL_BYTES = Setting("AGL_TAIL_BYTES", int, default=24 * 2**20, minimum=2**16, live=True)
"""Most bytes of spans that wait for a tail rule, an estimate; beyond them the oldest trace is let go (``sampled``)."""

TAIL_WAIT_S = Setting("AGL_TAIL_WAIT_S", float, default=60.0, minimum=0, maximum=60, live=True)
"""How long after the end of its root, in seconds, the spans of a trace wait for a tail rule."""

BATCH_SIZE = Setting("AGL_BATCH_SIZE", int, default=100, minimum=1, maximum=10_000, live=True)
"""So many waiting spans are sent to a remote store at once, in one request with all that wait (at most 2,000)."""

FLUSH_INTERVAL = Setting("AGL_FLUSH_INTERVAL", float, default=5.0, minimum=0, maximum=3600, live=True)
"""Longest time in seconds that a span waits for others before it is sent to a remote store. It is on the disk of this
machine after 50 ms all the same."""

MEMORY_THRESHOLD = Setting("AGL_MEMORY_THRESHOLD", int, default=100 * 2**20, minimum=2**22, live=True)
"""Bytes that queue, held traces and what waits for stores may take together, an estimate; beyond it they are cleaned
up: spilled, let go, collected."""

DURABILITY = Setting("AGL_DURABILITY", str, default="GROUP", choices=("GROUP", "SYNC"))
"""GROUP: a span is durable after 50 ms. SYNC: when the call that ended it returns, which costs a commit for each."""

QUEUE_POLICY = Setting("AGL_QUEUE_POLICY", str, default="SPILL", choices=("SPILL", "BLOCK", "DROP_OLDEST"), live=True)
"""When the queue is full: SPILL brings it to the disk and waits for that, BLOCK waits for the store, both for at most
``queue_block_ms``; DROP_OLDEST never waits."""

QUEUE_POLICY_PRIORITY = Setting(
    "AGL_QUEUE_POLICY_PRIORITY", str, default="SPILL", choices=("SPILL", "BLOCK", "DROP_OLDEST"), live=True
)
"""The same for the lane of rewards and exceptions; they push out others before they are lost themselves."""

QUEUE_BLOCK_MS = Setting("AGL_QUEUE_BLOCK_MS", float, default=1000.0, minimum=0, maximum=60_000, live=True)
"""Longest time in milliseconds that a full queue holds the program up while nothing is taken from it; once until there
is room again."""

RATE_LIMIT = Setting("AGL_RATE_LIMIT", float, default=0.0, minimum=0, live=True)
"""Most spans a second in the long run, without rewards and exceptions; what is more is ``filtered``. 0: no limit."""

RATE_BURST = Setting("AGL_RATE_BURST", int, default=1000, minimum=1, live=True)
"""Spans that may come at once before ``rate_limit`` holds."""

WATCH_MEMORY = Setting("AGL_WATCH_MEMORY", float, default=0.8, minimum=0, maximum=1, live=True)
"""Share of the memory of the machine, or of its cgroup, above which traces are brought to the disk; 0: not watched."""

WATCH_CPU = Setting("AGL_WATCH_CPU", float, default=0.9, minimum=0, maximum=1, live=True)
"""Share of the processors of this process, over ``watch_cpu_s``, above which an alert is raised; 0: not watched."""

WATCH_CPU_S = Setting("AGL_WATCH_CPU_S", float, default=10.0, minimum=0.1, maximum=3600, live=True)
"""How long in seconds the use of processors must be that high."""

WATCH_LATENCY_S = Setting("AGL_WATCH_LATENCY_S", float, default=1.0, minimum=0, live=True)
"""Seconds that the store may take for a batch; above it the next server is used where there is one. 0: not watched."""

WATCH_ERRORS = Setting("AGL_WATCH_ERRORS", float, default=0.05, minimum=0, maximum=1, live=True)
"""Share of the last 100 deliveries that may fail; above it an error is logged. 0: not watched."""

CPU_LOWERS_SAMPLING = Setting("AGL_CPU_LOWERS_SAMPLING", bool, default=False, live=True)
"""Whether an alert for processors halves ``sample_rate`` until it is over; never for the rollouts of a trainer."""

REDACT = Setting("AGL_REDACT", bool, default=True, live=True)
"""Whether texts are searched for what looks like a credential; values whose name says so are replaced in any case."""

REDACT_PII = Setting(
    "AGL_REDACT_PII", str, default="0", live=True, check="agentlightning.pipeline.redaction.rule:check_pii"
)
"""``1``: e-mail addresses, phone numbers, IBANs, payment cards and resident ids are replaced too; or names of rules,
comma-separated, which is the only way to ``ip-address``."""

REDACT_RULES = Setting(
    "AGL_REDACT_RULES", str, default="", live=True, check="agentlightning.pipeline.redaction.rule:check_custom"
)
"""Further rules: a JSON list of ``{"id", "pattern", "gate", "entropy"}``, or the path of a file with one."""

REDACT_OFF = Setting("AGL_REDACT_OFF", str, default="", live=True)
"""Names of rules that are not applied, comma-separated; ``named`` and ``environment`` are the two without a pattern."""

REDACT_KEY = Setting("AGL_REDACT_KEY", str, default="")
"""Key of the hashes in place of credentials, for several stores to share; empty: a random one beside each store."""

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


AGENTOPS_MODE = Setting("AGL_AGENTOPS_MODE", str, default="LOCAL", choices=("LOCAL", "SERVICE", "BOTH"))
"""Where spans of the AgentOps SDK go: LOCAL: to the local server and its store, nowhere else. SERVICE: through a buffer
of the local server to the AgentOps service. BOTH: to the store, and from there to the service."""

AGENTOPS_API_KEY = Setting("AGL_AGENTOPS_API_KEY", str, default="")
"""Key of the AgentOps service for the modes SERVICE and BOTH."""

AGENTOPS_ENDPOINT = Setting("AGL_AGENTOPS_ENDPOINT", str, default="https://api.agentops.ai")
"""Where the local server signs in for the modes SERVICE and BOTH."""

AGENTOPS_EXPORTER_ENDPOINT = Setting(
    "AGL_AGENTOPS_EXPORTER_ENDPOINT", str, default="https://otlp.agentops.ai/v1/traces"
)
"""Where the local server sends spans in the modes SERVICE and BOTH."""

AGENTOPS_CA = Setting("AGL_AGENTOPS_CA", str, default="")
"""PEM file with the certificates to trust for the AgentOps service; empty: the system's."""

AGENTOPS_RETRY_FIRST_S = Setting("AGL_AGENTOPS_RETRY_FIRST_S", float, default=0.5, minimum=0.01, maximum=60)
"""Pause in seconds before an upload to the service is tried again; each further one is twice as long."""

AGENTOPS_RETRY_CAP_S = Setting("AGL_AGENTOPS_RETRY_CAP_S", float, default=30.0, minimum=0.01, maximum=3600)
"""Longest pause in seconds between two tries of an upload to the service."""

AGENTOPS_RETRY_JITTER = Setting("AGL_AGENTOPS_RETRY_JITTER", float, default=0.5, minimum=0, maximum=1)
"""Share of each of these pauses that is random, so that many machines do not come back at once."""

AGENTOPS_PROJECTS = Setting("AGL_AGENTOPS_PROJECTS", str, default="")
"""Which key that a program signs in with at the local server means which project: ``key=project,key=project``; every
other one means the project of the server."""

AGENTOPS_LOG_BYTES = Setting("AGL_AGENTOPS_LOG_BYTES", int, default=10 * 2**20, minimum=1024)
"""Size in bytes at which the log of the local AgentOps server is rotated; three older files are kept."""


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
        self.derived: dict[str, tuple[dict[str, Any], int, Any]] = {}
        self.changes = 0
        self.on_change: list[Callable[[], object]] = []
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


def derive(name: str, make: Callable[[], D]) -> D:
    """Return what *make* makes of the settings, made again only after one of them changed. Thread-safe; fast."""
    try:
        used, changes, value = _values.derived[name]
    except KeyError:
        pass
    else:
        if changes == _values.changes and used is _values.used:
            return value
    used, changes = _values.used, _values.changes
    value = make()
    _values.derived[name] = (used, changes, value)
    return value


def renew() -> None:
    """Make everything anew that ``derive`` keeps, the next time it is asked for."""
    _changed()


def on_change(call: Callable[[], object]) -> None:
    """Call *call* whenever a setting may have changed; it must be quick and raise nothing."""
    _values.on_change.append(call)


def _changed() -> None:
    _values.changes += 1
    for call in _values.on_change:
        call()


def forget() -> None:
    """Read the environment anew: after it was changed on purpose, in a child process or in a test."""
    _values.used.clear()
    _changed()


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
        _changed()
    if LOG_LEVEL.name in checked:
        apply_log_level()


def check_environment() -> None:
    """Parse every ``AGL_*`` variable that is a setting.

    Raises:
        SettingError: The first one that holds nonsense.
    """
    for setting in all_settings():
        lookup(setting)


class _Lines(logging.Formatter):
    """A record is one line, and each line of its traceback is indented: what a log holds cannot forge a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        """Return the message as one line."""
        return _printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - the base class's name and type
        """Return the traceback, each line indented."""
        return "\n".join("  " + _printable(line) for line in super().formatException(ei).split("\n"))


def _printable(text: str) -> str:
    """Return *text* with control characters as escapes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


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
            _values.handler.setFormatter(_Lines("agl %(levelname)s %(name)s: %(message)s"))
            logger.addHandler(_values.handler)
    # Under ``agl run`` the program did not ask for us: nothing of ours may appear in its own log either.
    quiet = logging.CRITICAL + 1 if os.environ.get("AGL_ATTEMPT_ID") else logging.NOTSET
    logger.setLevel(quiet if level == "OFF" else level)
