"""Sessions on disk."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from ai_agents.telemetry import (
    EnvironmentInfo,
    TaskExecution,
    TaskStatus,
    TelemetryDataStore,
    TelemetrySession,
    data_store,
    get_error_handler,
)
from ai_agents.telemetry.book import process_name

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)


def session(session_id: str = "s", **fields: Any) -> TelemetrySession:
    """Return a session with one ended task."""
    task = TaskExecution("t", "what", START, START + timedelta(seconds=1), TaskStatus.COMPLETED)
    found = TelemetrySession(session_id, START, START + timedelta(seconds=2), **fields)
    found.add_task(task)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TelemetryDataStore]:
    """A store in a folder of its own."""
    with TelemetryDataStore(tmp_path / "sessions") as opened:
        yield opened


def write(store: TelemetryDataStore, one: TelemetrySession) -> Path:
    """Write a session and return its file."""
    store.store_session_data(one.session_id, one)
    assert store.flush_to_disk()
    return store.storage_dir / f"2026_11_21_{one.session_id}.json"


def test_default_folder(isolated: Path) -> None:
    """Without a folder the files are in ``~/.cache/ept/sop_agents``, readable by the user only."""
    store = TelemetryDataStore()
    assert store.get_storage_path() == isolated / ".cache" / "ept" / "sop_agents"
    assert stat.S_IMODE(store.storage_dir.stat().st_mode) == 0o700
    path = write(store, session())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.shutdown()


def test_session_survives(store: TelemetryDataStore, tmp_path: Path) -> None:
    """A session is the same in memory, on disk, and for the next process; None is no session."""
    store.store_session_data("s", None)
    assert store.get_session_data("s") is None
    write(store, session())
    assert store.get_session_data("s") == session()
    assert TelemetryDataStore(tmp_path / "sessions").get_session_data("s") == session()
    assert store.get_session_data("other") is None


@pytest.mark.parametrize("name", ["half a pair \ud83d", "whole \N{PILE OF POO}", "\x00 and \u2028"])
def test_every_text_can_be_written(store: TelemetryDataStore, name: str) -> None:
    """A session is written and read back whatever characters are in it, and however large its numbers are."""
    one = session()
    one.tasks[0].description, one.tasks[0].code_changes.lines_added = name, 2**70
    path = write(store, one)
    found = TelemetryDataStore(store.storage_dir).get_session_data("s")
    assert found == one
    assert "\n " in path.read_text(encoding="utf-8"), "people read it: it is indented"


def test_several_flushes_leave_one_file(store: TelemetryDataStore) -> None:
    """Flushing at once from several threads leaves one whole file and nothing else (B15)."""
    store.store_session_data("s", session())
    threads = [threading.Thread(target=store.flush_to_disk) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in store.storage_dir.iterdir()] == ["2026_11_21_s.json"]


def test_processes_that_call_their_sessions_the_same_keep_both(store: TelemetryDataStore) -> None:
    """A session never replaces that of another process under the same id; both can be read."""
    write(store, session(process="11:1.00"))
    other = TelemetryDataStore(store.storage_dir)
    for process in ("22:2.00", "11:1.00", "22:2.00"):
        changed = session(process=process)
        changed.tasks[0].description = process
        other.store_session_data("s", changed)
        assert other.flush_to_disk()
    fresh = TelemetryDataStore(store.storage_dir)
    assert sorted(fresh.get_session_ids()) == ["s", "s.2"]
    found = [fresh.get_session_data(name) for name in ("s", "s.2")]
    assert [one and (one.session_id, one.tasks[0].description) for one in found] == [("s", "11:1.00"), ("s", "22:2.00")]
    other.shutdown()
    fresh.shutdown()


def test_midnight_makes_no_second_file(store: TelemetryDataStore) -> None:
    """The name has the date of the session's start, and a session of any day is found (B13)."""
    write(store, session())
    with patch("time.time", return_value=time.time() + 86_400):
        write(store, session())
    assert len(list(store.storage_dir.iterdir())) == 1
    old = store.storage_dir / "2020_01_01_old.json"
    old.write_text(session("old").to_json())
    assert store.get_session_data("old") == session("old")
    (store.storage_dir / "plain.json").write_text(session("plain").to_json())
    assert store.get_session_data("plain") == session("plain")


@pytest.mark.parametrize("session_id", ["../x", "a/b", "/etc/passwd", "*", "..", "", "x" * 300, "\0", "é\ud800", "[a]"])
def test_hostile_ids_stay_in_the_folder(store: TelemetryDataStore, tmp_path: Path, session_id: str) -> None:
    """Whatever a session is called, its file is in the folder, and only its own is read back (B14)."""
    write(store, session("innocent"))
    store.store_session_data(session_id, session(session_id))
    assert store.flush_to_disk()
    assert {path.name for path in tmp_path.iterdir()} == {"sessions"}
    assert len(list(store.storage_dir.iterdir())) == 2
    other = TelemetryDataStore(store.storage_dir)
    found = other.get_session_data(session_id)
    assert found is not None
    assert found.tasks == session().tasks
    assert other.get_session_data(session_id + "x") is None


def test_only_our_own_files_are_deleted(store: TelemetryDataStore) -> None:
    """Retention deletes session files that are old, and no other file, whatever it is called (B13)."""
    path = write(store, session("old"))
    write(store, session("current"))
    others = ["package.json", "2026_x.json", "2026_11_21_a.txt", "notes", "2026_11_21_.json"]
    for name in others:
        (store.storage_dir / name).write_text("{}")
    (store.storage_dir / "2026_11_21_link.json").symlink_to(store.storage_dir / "package.json")
    for each in store.storage_dir.iterdir():
        os.utime(each, (0, 0), follow_symlinks=False)
    assert store.cleanup_old_files(max_age_days=7) == 1
    assert not path.exists()
    assert {each.name for each in store.storage_dir.iterdir()} == {
        *others, "2026_11_21_current.json", "2026_11_21_link.json",
    }  # fmt: skip


def test_damaged_files_are_put_aside(store: TelemetryDataStore) -> None:
    """A file that holds no session reads as None and is renamed, once (B21)."""
    for number, content in enumerate([b"{", b"[]", b"\xff\xfe", b"{}", b""]):
        name = f"2026_11_21_bad{number}.json"
        (store.storage_dir / name).write_bytes(content)
        assert store.get_session_data(f"bad{number}") is None
        assert not (store.storage_dir / name).exists()
    assert len(get_error_handler().get_error_summary()["corrupted_files"]) == 5


def test_killed_session_is_partial(store: TelemetryDataStore) -> None:
    """A session without an end whose process is gone ended as PARTIAL; one whose process lives is open."""
    open_session = session("open", process="999999999:1.00")
    open_session.end_time = None
    open_session.tasks.append(TaskExecution("u", "", START, status=TaskStatus.IN_PROGRESS))
    write(store, open_session)
    found = TelemetryDataStore(store.storage_dir).get_session_data("open")
    assert found is not None
    assert [task.status for task in found.tasks] == [TaskStatus.COMPLETED, TaskStatus.PARTIAL]
    assert found.end_time is not None
    assert found.tasks[1].duration is not None
    open_session.session_id, open_session.process = "living", process_name()
    write(store, open_session)
    found = TelemetryDataStore(store.storage_dir).get_session_data("living")
    assert found is not None
    assert found.end_time is None


def test_fallback_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder cannot be made, one in the temporary folder is used, the user's alone, and it is counted."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    store = TelemetryDataStore(tmp_path / "file" / "below")
    assert store.storage_dir == tmp_path / "ept_telemetry"
    assert get_error_handler().get_error_summary()["error_counts"] == {"storage_open": 1}
    assert stat.S_IMODE(store.storage_dir.stat().st_mode) == 0o700
    with patch.object(Path, "mkdir", side_effect=[PermissionError, None]) as mkdir:
        store = TelemetryDataStore(tmp_path / "x")
    assert mkdir.call_count == 2
    assert "ept_telemetry" in str(store.storage_dir)


def test_foreign_fallback_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link in the temporary folder that somebody else may have laid is not followed (B15)."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ept_telemetry").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    store = TelemetryDataStore(tmp_path / "file" / "below")
    assert store.storage_dir.name.startswith("ept_telemetry_")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_full_disk_stops_writing_for_a_while(store: TelemetryDataStore, number: int) -> None:
    """A disk that refuses is counted and left alone until a pause is over; the session stays in memory."""
    store.store_session_data("s", session())
    with patch.object(data_store, "write_durably", side_effect=OSError(number, "no")) as writing:
        assert not store.flush_to_disk()
        assert not store.flush_to_disk()
        assert writing.call_count == 1
    assert get_error_handler().is_component_disabled("persistent_storage")
    assert store.get_session_data("s") == session()
    with patch.object(data_store.time, "monotonic", return_value=time.monotonic() + data_store.RETRY_S + 1):
        assert store.flush_to_disk()
    assert not get_error_handler().is_component_disabled("persistent_storage")


def test_nearly_full_disk_is_left_to_the_program(store: TelemetryDataStore) -> None:
    """Below the low-water mark nothing is written."""
    store.store_session_data("s", session())
    with patch.object(data_store, "free_bytes", return_value=1000):
        assert not store.flush_to_disk()
    assert list(store.storage_dir.iterdir()) == []


def test_no_temporary_file_stays_behind(store: TelemetryDataStore) -> None:
    """A write that fails half-way leaves neither a part nor a temporary file, and the old file whole."""
    path = write(store, session())
    before = path.read_bytes()
    changed = session()
    changed.tasks[0].description = "something else"
    with patch("os.fsync", side_effect=OSError(errno.EIO, "no")):
        store.store_session_data("s", changed)
        assert not store.flush_to_disk()
    assert [each.name for each in store.storage_dir.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_file_holds_no_credentials(store: TelemetryDataStore, isolated: Path) -> None:
    """Credentials in descriptions and errors are replaced, and the user's home is shortened everywhere (B24)."""
    key = "sk-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKL"
    folders = (f"{isolated}/project/{key}", f"{isolated}/project")
    environment = EnvironmentInfo("", "", "", *folders, environment_variables={"PATH": f"{isolated}/bin"})
    one = session(environment=environment)
    one.tasks[0].description = f"use OPENAI_API_KEY={key}"
    one.tasks[0].error_message = f"Authorization: Bearer {key}"
    text = write(store, one).read_text()
    assert key not in text
    assert json.loads(text)["environment"]["environment_variables"] == {"PATH": "~/bin"}
    assert json.loads(text)["environment"]["project_root"] == "~/project"


def test_statistics(store: TelemetryDataStore, tmp_path: Path) -> None:
    """The figures have both their names; only session files count; a missing folder is said."""
    assert store.get_storage_stats()["total_files"] == 0
    write(store, session())
    (store.storage_dir / "other.json").write_text("{}")
    stats = store.get_storage_stats()
    assert stats["storage_path"] == stats["storage_dir"] == str(tmp_path / "sessions")
    assert stats["disk_files"] == stats["total_files"] == 1
    assert stats["total_disk_size_mb"] > 0
    assert stats["oldest_file"] == stats["newest_file"]
    assert stats["newest_file"]["name"] == "2026_11_21_s.json"
    for path in list(store.storage_dir.iterdir()):
        path.unlink()
    store.storage_dir.rmdir()
    assert "error" in store.get_storage_stats()


def test_sessions_read_back_are_limited(store: TelemetryDataStore) -> None:
    """Only so many sessions of before are kept in memory, the last used ones, and the limit changes live."""
    for name in "abc":
        write(store, session(name))
    other = TelemetryDataStore(store.storage_dir, max_memory_sessions=2)
    kept = {name: other.get_session_data(name) for name in "abc"}
    assert other.get_session_data("c") is kept["c"]
    assert other.get_session_data("a") is not kept["a"]
    other.set_limits(max_memory_sessions=0)
    assert other.get_session_data("c") is not kept["c"]


def test_writes_come_soon_and_then_less_often(store: TelemetryDataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the interval is over a session is written several times, also when its limits are set first."""
    monkeypatch.setattr(data_store, "FIRST_WRITE_S", 0.01)
    store.set_limits(flush_interval=60)
    begun = time.monotonic()
    times: list[float] = []
    written = threading.Semaphore(0)

    def source() -> TelemetrySession:
        times.append(time.monotonic() - begun)
        written.release()
        return session()

    store.source = source
    for _ in range(4):
        store.touch()
        assert written.acquire(timeout=5)
    assert all(moment >= least for moment, least in zip(times, (0.01, 0.03, 0.07, 0.15), strict=True))


def test_what_is_written_is_not_written_again(store: TelemetryDataStore) -> None:
    """A session that did not change costs no second write, unless somebody has taken its file away."""
    path = write(store, session())
    first = path.stat().st_ino
    write(store, session())
    assert path.stat().st_ino == first
    path.unlink()
    assert write(store, session()).exists()


def test_thread_writes_what_changes(store: TelemetryDataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is on disk soon, written by a thread of the store's own."""
    monkeypatch.setattr(data_store, "FIRST_WRITE_S", 0.01)
    written = threading.Event()
    writers: list[str] = []

    def source() -> TelemetrySession:
        writers.append(threading.current_thread().name)
        written.set()
        return session()

    store.source = source
    store.touch()
    assert written.wait(5)
    store.shutdown()
    assert set(writers) == {"ai-agents-telemetry"}
    assert (store.storage_dir / "2026_11_21_s.json").exists()
