"""Errors of telemetry: counted, logged, and nobody's problem."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ai_agents.telemetry import (
    TelemetryErrorHandler,
    create_fallback_session,
    ensure_safe_json_serialization,
    get_error_handler,
    log_telemetry_error,
    safe_instrumentation,
    safe_storage_operation,
    safe_telemetry_call,
    safe_telemetry_operation,
    with_fallback_data,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path


def counts() -> dict[str, int]:
    """Return what was counted."""
    return get_error_handler().get_error_summary()["error_counts"]


def test_summary_has_the_number_of_errors_as_its_length() -> None:
    """``len`` of the summary is the number of errors; it is true, equal to its dict, and whole as JSON (seed)."""
    handler = TelemetryErrorHandler()
    assert len(handler.get_error_summary()) == 0
    assert handler.get_error_summary()
    assert json.loads(json.dumps(handler.get_error_summary(), indent=1))["total_errors"] == 0
    handler.handle_collection_error(ValueError("x"), "op")
    handler.handle_serialization_error(ValueError("x"), "session")
    summary = handler.get_error_summary()
    assert len(summary) == 2
    assert summary == {
        "error_counts": {"collection_op": 1, "serialization_session": 1},
        "disabled_components": [],
        "corrupted_files": [],
        "total_errors": 2,
    }
    handler.reset_error_state()
    assert len(handler.get_error_summary()) == 0


def test_repeated_storage_errors_disable_the_storage() -> None:
    """The tenth storage error of one operation switches the storage off; an instrumentation error at once (B2)."""
    handler = TelemetryErrorHandler()
    for _ in range(9):
        handler.handle_storage_error(OSError("x"), "flush")
    assert not handler.is_component_disabled("persistent_storage")
    handler.handle_storage_error(OSError("x"), "flush")
    assert handler.is_component_disabled("persistent_storage")
    handler.handle_instrumentation_error(ValueError("x"))
    assert handler.is_component_disabled("instrumentation")


def test_damaged_file_moves_out_of_the_way(tmp_path: Path) -> None:
    """A corrupted file is marked and renamed (B21)."""
    handler = TelemetryErrorHandler()
    path = tmp_path / "a.json"
    path.write_text("{")
    handler.handle_data_corruption(path, ValueError("x"))
    assert handler.is_file_corrupted(path)
    assert handler.is_file_corrupted(str(path))
    assert not path.exists()
    assert len(list(tmp_path.glob("a.corrupted_*"))) == 1
    handler.handle_data_corruption(tmp_path / "gone.json", ValueError("x"))


def test_threads_count_exactly() -> None:
    """No error of many threads is lost (B20)."""
    handler = TelemetryErrorHandler()

    def work() -> None:
        for _ in range(10):
            handler.handle_collection_error(ValueError(), "op")

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handler.get_error_summary()) == 50


def test_operation_as_block_and_decorator() -> None:
    """As a block and as a decorator it swallows errors, counts each once, and passes results on (seed)."""
    with safe_telemetry_operation("block"):
        raise ValueError

    @safe_telemetry_operation("custom_operation")
    def work(number: int) -> float:
        """Divide."""
        return 1 / number

    assert work(2) == 0.5
    assert work(0) is None
    assert work.__doc__ == "Divide."
    assert counts() == {"collection_block": 1, "collection_custom_operation": 1}


def test_operation_leaves_interrupts_alone() -> None:
    """KeyboardInterrupt belongs to the program."""
    with pytest.raises(KeyboardInterrupt), safe_telemetry_operation("x"):
        raise KeyboardInterrupt
    assert counts() == {}


def test_operation_on_coroutines_and_generators() -> None:
    """Coroutines, generators and asynchronous generators are safe while they run, not only when they are called."""

    @safe_telemetry_operation("coroutine")
    async def fetch() -> int:
        await asyncio.sleep(0)
        raise ValueError

    @safe_telemetry_operation("generator")
    def count() -> Generator[int, None, None]:
        yield 1
        raise ValueError

    @safe_telemetry_operation("stream")
    async def stream() -> AsyncGenerator[int, None]:
        yield 1
        raise ValueError

    async def read() -> list[int]:
        return [item async for item in stream()]

    assert asyncio.run(fetch()) is None
    assert list(count()) == [1]
    assert asyncio.run(read()) == [1]
    assert counts() == {"collection_coroutine": 1, "collection_generator": 1, "collection_stream": 1}


def test_decorators_have_their_fallbacks() -> None:
    """Each decorator returns what it promises after an error, and the result otherwise."""

    def broken(*args: Any) -> Any:
        raise ValueError

    assert safe_telemetry_call("x")(broken)() is None
    assert safe_storage_operation("x")(broken)() is False
    assert safe_instrumentation("x")(broken)("self", "given") == "given"
    assert safe_instrumentation("x")(broken)("first") == "first"
    assert safe_instrumentation("x")(broken)() is None
    assert with_fallback_data([1])(broken)() == [1]
    assert with_fallback_data([1])(lambda: None)() == [1]
    assert with_fallback_data([1])(lambda: [2])() == [2]
    assert safe_telemetry_call("x")(lambda: 5)() == 5


def test_json_of_what_is_none() -> None:
    """What cannot be JSON becomes an object that says so."""
    assert json.loads(ensure_safe_json_serialization({"a": 1})) == {"a": 1}
    circle: list[Any] = []
    circle.append(circle)
    for value in (circle, {"a": object()}, {(1, 2): 3}):
        found = json.loads(ensure_safe_json_serialization(value))
        assert found["error"] == "Serialization failed"
        assert set(found) == {"error", "data_type", "timestamp", "original_error"}


def test_fallback_session_and_log(caplog: pytest.LogCaptureFixture) -> None:
    """A fallback session is empty; an error is logged with what was being done."""
    assert create_fallback_session("s").tasks == []
    with caplog.at_level(logging.WARNING, "ai_agents.telemetry"):
        log_telemetry_error(ValueError("why"), "writing a file")
    assert "writing a file" in caplog.text


def test_one_handler_for_the_process() -> None:
    """There is one handler."""
    assert get_error_handler() is get_error_handler()


DEBUGGING = """
import logging, sys
from ai_agents.telemetry import TelemetryCollector
if "ask" in sys.argv:
    logging.getLogger('ai_agents.telemetry').setLevel(logging.DEBUG)
if "configured" in sys.argv:
    logging.basicConfig(stream=sys.stdout, level=logging.DEBUG)
TelemetryCollector("s").start_task("t", "x")
"""


@pytest.mark.parametrize(("words", "shown"), [((), ""), (("ask",), "stderr"), (("ask", "configured"), "stdout")])
def test_debug_recipe(words: tuple[str, ...], shown: str) -> None:
    """The seed's one line shows the log on stderr; nothing is shown without it, and never twice (B22)."""
    command = [sys.executable, "-c", DEBUGGING, *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("task t: started" in answer.stderr) == (shown == "stderr")
    assert ("task t: started" in answer.stdout) == (shown == "stdout")
