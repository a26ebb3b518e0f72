"""agl tail: spans as they start and end, from other processes, until it is told to stop."""

from __future__ import annotations

import json
import signal
import threading
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.integration.cli.conftest import Agl, Writer


class Lines:
    """The output of a running process, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: Queue[str] = Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line.rstrip("\n"))

    def until(self, text: str) -> list[str]:
        """Return the lines up to the first that holds *text*; fails after 10 s."""
        found: list[str] = []
        while not found or text not in found[-1]:
            try:
                found.append(self._lines.get(timeout=10))
            except Empty:
                pytest.fail(f"no line with {text!r} after {found}")
        return found

    def stop(self) -> tuple[int, str]:
        """Interrupt the process and return its exit code and its errors."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self._thread.join()
        return self.process.returncode, (self.process.stderr.read() if self.process.stderr else "").strip()


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Give a list for processes, which are ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def tail(agl: Agl, started: list[subprocess.Popen[str]], *arguments: str) -> Lines:
    """Start agl tail."""
    started.append(agl.start("tail", *arguments))
    return Lines(started[-1])


def ended(writer: Writer, rollout: str) -> None:
    """Write a rollout of one span that has ended."""
    writer.write(writer.span(rollout, f"work of {rollout}"), end="succeeded", task=f"python {rollout}.py")


def test_spans_start_and_end_live(agl: Agl, writer: Writer, started: list[subprocess.Popen[str]]) -> None:
    """A span is printed when it is noted open and again when it ended, a rollout is announced; Ctrl+C ends with 130."""
    writer.write(writer.span("now", "under way", end_ns=None))
    lines = tail(agl, started)
    lines.until("under way")
    call = writer.call("a", ("user", "hi"))
    writer.write(msgspec.structs.replace(call, end_ns=None), task="python a.py")
    begin = lines.until("chat gpt-4o")
    assert any("ro-a  started  python a.py" in line for line in begin)
    assert "  start   llm" in begin[-1]
    writer.write(call, end="succeeded")
    assert "250 ms  1,000 in, 100 out  $0.0035" in lines.until("  end     llm")[-1]
    assert "ro-a" in lines.until("succeeded")[-1]
    assert lines.stop() == (130, "")


def test_a_store_may_come_later(
    agl: Agl, started: list[subprocess.Popen[str]], make_writer: Callable[[], Writer]
) -> None:
    """Without a store tail waits for it, and then misses nothing."""
    started.append(agl.start("tail"))
    assert "waiting for the store" in (started[0].stderr.readline() if started[0].stderr else "")
    lines = Lines(started[0])
    ended(make_writer(), "late")
    lines.until("work of late")
    assert lines.stop() == (130, "")


def test_filters_leave_out_the_rest(agl: Agl, writer: Writer, started: list[subprocess.Popen[str]]) -> None:
    """Only spans of the kind that failed are printed, as JSON when that is asked for."""
    bad: dict[str, Any] = {"status_code": "ERROR", "status_description": "no"}
    writer.write(writer.call("a"), writer.span("a", "tool"), writer.call("a", **bad), writer.span("a", "x", **bad))
    ended(writer, "b")
    lines = tail(agl, started, "--all", "--kind", "llm", "--error", "--json")
    found = [json.loads(line) for line in lines.until('"event": "rollout_end", "rollout_id": "ro-b"')]
    assert [event["event"] for event in found if event["event"].startswith("span")] == ["span_end"]
    assert all(event["version"] == 1 for event in found)
    assert lines.stop()[0] == 130


def test_one_rollout_is_followed_to_its_end(agl: Agl, writer: Writer) -> None:
    """With --rollout tail prints what that one did and ends with it."""
    ended(writer, "a")
    ended(writer, "b")
    out = agl("tail", "--rollout", "a")
    assert "work of a" in out
    assert "work of b" not in out


def test_spans_of_a_dead_process_are_said_to_be_broken(
    agl: Agl, writer: Writer, started: list[subprocess.Popen[str]]
) -> None:
    """An open span whose process is gone is printed as such, not left open for ever."""
    from agentlightning._internal.ids import host_name

    writer.write(writer.span("a", "cut off", end_ns=None, process=f"{host_name()}/999999999/1"))
    lines = tail(agl, started)
    assert "broken" in lines.until("broken")[-1]
