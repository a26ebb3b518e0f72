"""The manager: one session for each process, recorded and kept without any configuration."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, cast

import agentlightning
from agentlightning import add_span_listener, remove_span_listener, settings
from agentlightning.instrumentation import registry
from agentlightning.tracer.inherited import set_process_attributes
from ai_agents.telemetry.collector import NoOpCollector, TelemetryCollector
from ai_agents.telemetry.data_store import TelemetryDataStore
from ai_agents.telemetry.error_handler import get_error_handler, safe_storage_operation, safe_telemetry_operation
from ai_agents.telemetry.log import logger
from ai_agents.telemetry.loose import as_number, now
from ai_agents.telemetry.session_file import encode_lines
from ai_agents.telemetry.stream import SpanReader

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from typing_extensions import Self

    from agentlightning.types.record import SpanRecord
    from ai_agents.telemetry.types import TelemetrySession
    from ai_agents.telemetry.value import JsonObject

DEFAULTS: JsonObject = {
    "enabled": True,
    "storage_dir": None,
    "max_file_age_days": 30,
    "auto_cleanup": True,
    "flush_interval": 60,
    "max_memory_sessions": 50,
}
"""Configuration keys and their defaults; unknown keys are kept and have no effect."""

SESSION_ID = "session.id"
"""Attribute that is on every span of the process: the session that it belongs to."""

_RECORD_BYTES = 700
"""Memory that one call or use of a tool takes, measured."""


class TelemetryManager:
    """The one manager of the process. Thread-safe; no method raises into the program."""

    _instance: ClassVar[TelemetryManager | None] = None
    _class_lock: ClassVar[threading.RLock] = threading.RLock()

    def __new__(cls) -> Self:
        """Return the one instance, made by the first caller."""
        with cls._class_lock:
            if cls._instance is None:
                instance = super().__new__(cls)
                instance._prepare()
                cls._instance = instance
            return cast("Self", cls._instance)

    def _prepare(self) -> None:
        self._lock = threading.RLock()
        self._archiving = threading.RLock()
        self._data_store: TelemetryDataStore | None = None
        self._collector: TelemetryCollector | None = None
        self._no_collector: NoOpCollector | None = None
        self._session_id: str | None = None
        self._session_start_time: datetime | None = None
        self._config: JsonObject = dict(DEFAULTS)
        self._is_shutdown = False
        self._reader: SpanReader | None = None
        self._instrumented = False
        self._began_capture = False
        atexit.register(self.shutdown)

    @classmethod
    def get_instance(cls) -> TelemetryManager:
        """Return the one manager."""
        return cls._instance or cls()

    @classmethod
    def reset_instance(cls) -> None:
        """Shut the manager down and forget it; the next ``get_instance`` makes another."""
        with cls._class_lock:
            old, cls._instance = cls._instance, None
        if old is not None:
            old.shutdown()
            old._end_capture()  # noqa: SLF001 - of this class
            atexit.unregister(old.shutdown)

    def initialize(self, config: JsonObject | None = None) -> None:
        """Begin to record; a further call applies what *config* changes while the session goes on.

        Args:
            config: ``enabled``, ``storage_dir``, ``max_file_age_days``, ``auto_cleanup``, ``flush_interval`` (seconds)
                and ``max_memory_sessions``; what is left out stays as it is.
        """
        with safe_telemetry_operation("initialize"), self._lock:
            if self._is_shutdown:
                return
            changed = {key: value for key, value in (config or {}).items() if self._config.get(key) != value}
            self._config.update(config or {})
            if not self.is_enabled():
                self._stop_reading()
                return
            if self._data_store is None or "storage_dir" in changed:
                self._open_store()
            else:
                self._apply_limits(self._data_store)
            self._begin_session()

    def get_collector(self, session_id: str | None = None) -> TelemetryCollector:
        """Return the collector of the session, which begins with it; *session_id* is for compatibility."""
        del session_id
        if self._collector is None and not self._is_shutdown:
            self.initialize()
        collector = self._collector
        if collector is None or not self.is_enabled():
            with self._lock:
                collector = self._no_collector = self._no_collector or NoOpCollector()
        return collector

    def get_session_data(self, session_id: str | None = None) -> TelemetrySession | None:
        """Return the session as it is, or one of before by its id; None if there is none or telemetry is off.

        Waits until the spans that have ended are in it. Tasks that are open are not; what was done outside every task
        is in a task of its own, ``_unassigned``.
        """
        result: TelemetrySession | None = None
        with safe_telemetry_operation("get_session_data"):
            if session_id is not None and session_id != self._session_id:
                result = self._store().get_session_data(session_id)
            elif self.is_enabled() or self._collector is not None:
                result = self._snapshot()
        return result

    def flush_data(self) -> None:
        """Write the session now; durable when this returns, unless the disk refuses."""
        with safe_telemetry_operation("flush_data"):
            self._write()

    def force_flush_all_data(self) -> None:
        """Write the session now, as ``flush_data`` does."""
        self.flush_data()

    def get_storage_stats(self) -> JsonObject:
        """Return path, files, collector, memory and measured overhead; every key is there also when nothing is."""
        collector = self._collector
        stats: JsonObject = {
            "enabled": self.is_enabled(),
            "current_session_id": self._session_id,
            "has_active_collector": collector is not None,
            "active_collectors": int(collector is not None),
            "config": dict(self._config),
            "storage_path": "",
            "storage_dir": "",
            "total_files": 0,
            "disk_files": 0,
            "total_disk_size_mb": 0.0,
            "has_current_session": False,
            "oldest_file": None,
            "newest_file": None,
        }
        with safe_telemetry_operation("get_storage_stats"):
            if self._data_store is not None:
                stats.update(self._data_store.get_storage_stats())
            stats.update(self._measured())
        return stats

    def get_all_session_ids(self) -> list[str]:
        """Return the ids of all sessions that can be read, oldest first; the current one is the last."""
        ids: list[str] = []
        with safe_telemetry_operation("get_all_session_ids"):
            ids = self._store().get_session_ids()
            collector = self._collector
            if collector is not None and collector.book.has_records():
                ids = [one for one in ids if one != collector.session_id] + [collector.session_id]
        return ids

    def cleanup_old_data(self, max_age_days: float | None = None) -> int:
        """Delete session files that are older than *max_age_days* (default: as configured); return how many."""
        with safe_telemetry_operation("cleanup_old_data"):
            return self._store().cleanup_old_files(max_age_days)
        return 0

    def is_enabled(self) -> bool:
        """Tell whether telemetry records: it was not switched off here, nor all capture by ``AGL_ENABLED=0``."""
        return bool(self._config.get("enabled", True)) and settings.get(settings.ENABLED)

    def enable_telemetry(self) -> None:
        """Record again, from now on."""
        self.initialize({"enabled": True})

    def disable_telemetry(self) -> None:
        """Record nothing more; what was recorded stays readable."""
        with safe_telemetry_operation("disable_telemetry"):
            agentlightning.flush()
            self.initialize({"enabled": False})

    def has_unsaved_data(self) -> bool:
        """Tell whether the session holds anything that only a write would keep."""
        collector = self._collector
        return collector is not None and collector.book.has_records()

    def start_new_session(self) -> str:
        """End the session, write it, begin another and return its id."""
        with safe_telemetry_operation("start_new_session"), self._lock:
            self.finalize_current_session()
            self._stop_reading()
            self._collector = None
            self.initialize()
        return self._session_id or ""

    def finalize_current_session(self) -> TelemetrySession | None:
        """End the session and write it; return it, or None if there is none."""
        collector = self._collector
        session: TelemetrySession | None = None
        with safe_telemetry_operation("finalize_current_session"):
            if collector is not None:
                agentlightning.flush()
                collector.book.complete()
                session = collector.finalize_session()
                self._write()
        return session

    def shutdown(self) -> None:
        """End and write the session and stop everything; a second call does nothing."""
        with self._lock:
            if self._is_shutdown:
                return
            self._is_shutdown = True
        with safe_telemetry_operation("shutdown"):
            self.finalize_current_session()
        with safe_telemetry_operation("shutdown"):
            self._stop_reading()
            if self._data_store is not None:
                self._data_store.source = None
                self._data_store.shutdown()

    def after_fork(self) -> None:
        """Leave the session to the parent: a child begins its own with its first record."""
        self._lock, self._archiving = threading.RLock(), threading.RLock()
        reader, self._reader = self._reader, None
        self._data_store = self._collector = self._session_id = None
        if reader is not None:
            remove_span_listener(reader)
            add_span_listener(self._first_span)

    def _first_span(self, span: SpanRecord, /) -> None:
        """Begin the session of a forked child when there is something to record."""
        remove_span_listener(self._first_span)
        self.initialize()
        if self._reader is not None:
            self._reader(span)

    def __enter__(self) -> Self:
        """Initialize and return the manager."""
        self.initialize()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Shut down."""
        self.shutdown()

    def _open_store(self) -> None:
        """Open the folder that is configured; without one the session stays in memory."""
        old, self._data_store = self._data_store, None
        if old is not None:
            old.source = None
            old.shutdown()
        store = self._new_store()
        if isinstance(store, bool):  # no folder at all
            return
        self._data_store = store
        self._apply_limits(store)
        store.source = self._to_write
        if self._config.get("auto_cleanup"):
            store.cleanup_old_files()

    @safe_storage_operation("open")
    def _new_store(self) -> TelemetryDataStore:
        return TelemetryDataStore(self._config.get("storage_dir"), self._config.get("max_file_age_days") or 30)

    def _apply_limits(self, store: TelemetryDataStore) -> None:
        interval, sessions = (as_number(self._config.get(key)) for key in ("flush_interval", "max_memory_sessions"))
        store.set_limits(flush_interval=interval, max_memory_sessions=None if sessions is None else int(sessions))
        age = as_number(self._config.get("max_file_age_days"))
        store.max_file_age_days = 30 if age is None else age

    def _begin_session(self) -> None:
        """Make the collector and feed it from the spans of this process."""
        if self._collector is None:
            self._collector = collector = TelemetryCollector()
            self._session_id, self._session_start_time = collector.session_id, now()
            collector.on_change = self._changed
            logger.debug("session %s: begun", collector.session_id)
        if self._reader is None:
            agentlightning.flush()  # what ended before belongs to no session, or to the one before
            self._reader = SpanReader(self._collector)
            add_span_listener(self._reader)
            self._collector.is_fed_by_spans = True
            set_process_attributes({SESSION_ID: self._session_id})
        if not self._instrumented:
            self._instrumented = True
            # What the program has begun itself is the program's to end.
            self._began_capture = not _is_capturing()
            agentlightning.OtelTracer().init()

    def _stop_reading(self) -> None:
        """Give the stream up, and the libraries too where nobody else asked for their spans."""
        reader, self._reader = self._reader, None
        if reader is not None:
            remove_span_listener(reader)
            set_process_attributes({SESSION_ID: None})
        if self._collector is not None:
            self._collector.is_fed_by_spans = False
        if self._instrumented and not self.is_enabled() and not os.environ.get("AGL_ATTEMPT_ID"):
            self._instrumented = False
            self._end_capture()

    def _end_capture(self) -> None:
        """Put the libraries back, where this manager was the one that began to trace them."""
        began, self._began_capture = self._began_capture, False
        if began:
            agentlightning.uninstrument_all()

    def _changed(self, ended: bool) -> None:  # noqa: FBT001 - a callback
        store, collector = self._data_store, self._collector
        full = collector is not None and collector.book.is_full()
        if store is not None:
            store.touch(now=ended or full, urgent=full)
        # The writing thread makes room; where it cannot keep up, or there is none, it is done here.
        if full and collector is not None and (store is None or collector.book.is_full(times=2)):
            with safe_telemetry_operation("archive"), self._archiving:
                _archive(collector, store)

    def _snapshot(self) -> TelemetrySession | None:
        if not self._is_shutdown:
            self.get_collector()
            agentlightning.flush()
        collector = self._collector
        if collector is None:
            return None
        collector.book.complete()
        return collector.book.copy(include_active=False, include_unassigned=True)

    def _to_write(self) -> TelemetrySession | None:
        """Return what belongs into the file now, None while nothing was recorded."""
        collector, store = self._collector, self._data_store
        if collector is None or not collector.book.has_records():
            return None
        collector.book.complete()
        with self._archiving:
            _archive(collector, store)
        return collector.get_session_data(include_active=True)

    def _write(self) -> None:
        agentlightning.flush()
        store, session = self._data_store, self._to_write()
        if store is not None and session is not None:
            store.store_session_data(session.session_id, session)
            store.flush_to_disk()

    def _store(self) -> TelemetryDataStore:
        """Return the store; readers get one also before the manager was initialized, and while it is off."""
        with self._lock:
            if self._data_store is None:
                self._open_store()
            return self._data_store or TelemetryDataStore(self._config.get("storage_dir"))

    def _measured(self) -> JsonObject:
        collector, reader = self._collector, self._reader
        records = 0 if collector is None else collector.book.records
        spans, spent_ns = (0, 0) if reader is None else (reader.spans, reader.spent_ns)
        return {
            "records_in_memory": records,
            "records_on_disk": 0 if collector is None else collector.book.archived,
            "memory_mb": round(records * _RECORD_BYTES / 2**20, 3),
            "spans_read": spans,
            "overhead_us_per_span": round(spent_ns / spans / 1e3, 1) if spans else 0.0,
            "overhead_s": spent_ns / 1e9,
            "errors": len(get_error_handler().get_error_summary()),
        }


def _is_capturing() -> bool:
    """Tell whether libraries are traced already, or will be when they are imported."""
    return any(type(finder).__module__ == registry.__name__ for finder in sys.meta_path)


def _archive(collector: TelemetryCollector, store: TelemetryDataStore | None) -> None:
    """Move older records of a huge session to disk, where there is one; the sums keep them."""
    lines = collector.book.take_archive()
    if lines and store is not None:
        store.archive(collector.get_session_data(), encode_lines(lines))


def _begin_anew_in_child() -> None:
    manager = TelemetryManager._instance  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if manager is not None:
        with suppress(Exception):
            manager.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
