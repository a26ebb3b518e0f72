"""Prices that were looked up before, kept in a small file, so that a listing need not load the whole price table.

The package ``genai-prices`` takes 0.2 to 0.4 s to import; the prices of the few models that somebody uses are a few
hundred bytes. The file belongs to one installation of the package: another release, or a table that was edited, makes
a new one. It only ever saves time: missing, damaged or unwritable, every price comes from the table itself.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agentlightning._internal.private import private_folder
from agentlightning.view.rate import Rates

if TYPE_CHECKING:
    from agentlightning.view.prices import BundledPrices

MAX_ENTRIES = 1024
"""Prices that are kept; names of models come from outside, so there is a bound."""

_FORMAT = 1
_MAX_BYTES = 4_000_000
_MINUTE_NS = 60 * 10**9


class Entry(msgspec.Struct, frozen=True):
    """A price, or why there is none, and when that holds."""

    provider: str | None
    model: str
    from_minute: int
    """First minute since 1970 for which it holds."""
    to_minute: int
    """First minute for which it no longer holds."""
    rates: Rates | None = None
    reason: str = ""

    @property
    def answer(self) -> Rates | str:
        """What ``PriceTable.rates`` returns."""
        return self.reason if self.rates is None else self.rates


class _File(msgspec.Struct):
    table: str
    version: str
    entries: list[Entry] = []


class CachedPrices:
    """The prices of ``genai-prices``, from a file where they were looked up before. Thread-safe."""

    def __init__(self, path: Path | None) -> None:
        """Keep prices at *path*; None keeps them in memory only."""
        self._path = path
        self._lock = threading.RLock()
        self._entries: dict[tuple[str | None, str], list[Entry]] = {}
        self._table: BundledPrices | None = None
        self._identity = _identity()
        self._version = ""
        self._load()

    def __len__(self) -> int:
        """Return how many prices are known without the table."""
        return sum(map(len, self._entries.values()))

    @property
    def name(self) -> str:
        """``genai-prices``."""
        return "genai-prices"

    @property
    def version(self) -> str:
        """Release of the package."""
        return self._version or self._bundled().version

    def rates(self, provider: str | None, model: str, at_ns: int) -> Rates | str:
        """Return the prices of *model*, or why there are none; see ``PriceTable``."""
        minute = at_ns // _MINUTE_NS
        for entry in self._entries.get((provider, model), ()):
            if entry.from_minute <= minute < entry.to_minute:
                return entry.answer
        with self._lock:
            answer, from_minute, to_minute = self._bundled().lookup(provider, model, minute)
            rates, reason = (None, answer) if isinstance(answer, str) else (answer, "")
            self._keep(Entry(provider, model, from_minute, to_minute, rates, reason))
            return answer

    def _bundled(self) -> BundledPrices:
        with self._lock:
            if self._table is None:
                from agentlightning.view.prices import bundled_prices  # noqa: PLC0415 - what this module saves

                self._table = bundled_prices()
                self._version = self._table.version
            return self._table

    def _add(self, entry: Entry) -> None:
        known = self._entries.get((entry.provider, entry.model), [])
        if entry not in known:
            # A new list: readers look at the old one without a lock.
            self._entries[entry.provider, entry.model] = [*known, entry]

    def _keep(self, entry: Entry) -> None:
        if len(self) >= MAX_ENTRIES:
            self._entries.clear()
        self._load()  # what other processes found meanwhile
        self._add(entry)
        if self._path is None:
            return
        entries = [item for found in self._entries.values() for item in found][-MAX_ENTRIES:]
        try:
            text = msgspec.json.encode(_File(self._identity, self.version, entries))
        except (msgspec.MsgspecError, UnicodeError):  # a name with a lone surrogate
            return
        with contextlib.suppress(OSError):  # no place for a cache: the table itself is there
            _replace(self._path, text)

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                return
            read = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            return
        if read.table != self._identity or not read.version:
            return
        self._version = read.version
        for entry in read.entries[:MAX_ENTRIES]:
            self._add(entry)


def _identity() -> str:
    """Return what tells this table from every other: where it is, how large, when it was written."""
    spec = find_spec("genai_prices")
    if spec is None or spec.origin is None:
        return ""
    path = Path(spec.origin).with_name("data.py")
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{_FORMAT}:{path}:{status.st_size}:{status.st_mtime_ns}"


def _replace(path: Path, content: bytes) -> None:
    """Write a file at once or not at all, readable by its owner only."""
    private_folder(path.parent)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


@lru_cache(maxsize=1)
def cached_prices() -> CachedPrices:
    """Return the one table of this process, kept in the user's cache directory."""
    import platformdirs  # noqa: PLC0415 - readers only

    folder = platformdirs.user_cache_dir("agentlightning", appauthor=False)
    return CachedPrices(Path(folder) / "prices.json")
