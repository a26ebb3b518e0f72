"""What holds for every test: no data of the user is touched, no setting stays, errors of telemetry are loud."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest

from agentlightning import settings
from agentlightning._internal.context import home_rollout
from agentlightning._internal.guard import failures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The programs that tests start would compile every library anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell that starts this in the background without job control has it, and all that tests start, ignore Ctrl+C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine takes its time for an example; what hangs ends by the time limit of the test.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("patient")

_PREFIXES = ("AGL_", "OTEL_")
_NAMES = ("TRACEPARENT", "TRACESTATE", "COLUMNS", "LINES")
_WATCHED = ("AGL_WATCH_MEMORY", "AGL_WATCH_CPU", "AGL_WATCH_LATENCY_S", "AGL_WATCH_ERRORS")
_USER_FOLDERS = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's sight: tests that collect would look at it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def uninstrumented() -> Iterator[None]:
    """Put back, after the test, every library that a tracer in it has instrumented."""
    yield
    registry = sys.modules.get("agentlightning.instrumentation.registry")
    if registry is not None:
        registry.uninstrument_all()
    home_rollout.cache_clear()


@pytest.fixture(autouse=True)
def pipes_ignored() -> Iterator[None]:
    """Fail a test that lets SIGPIPE end this process: a much later one would, at a connection whose other side left."""
    yield
    if hasattr(signal, "SIGPIPE"):
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test, and the programs that it starts, a home and a store of their own.

    Returns:
        The temporary home; the default store is ``agentlightning.db`` in it.
    """
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name in _NAMES:
            monkeypatch.delenv(name)
    for name in _USER_FOLDERS:
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("AGL_STORE", str(home / "agentlightning.db"))
    for name in _WATCHED:  # a busy machine would add spans of its own to what a test counts
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(failures, "loud", True)
    values = vars(settings)["_values"]  # what an earlier test configured or used
    monkeypatch.setattr(values, "configured", {})
    monkeypatch.setattr(values, "used", {})
    settings.renew()
    return home


@pytest.fixture
def load() -> float:
    """Return how many programs share a processor now, at least 1: what takes a second alone takes about so many."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)) if hasattr(os, "getloadavg") else 1.0


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swallow and count errors of telemetry, as for a user."""
    monkeypatch.setattr(failures, "loud", False)
    monkeypatch.setattr(failures, "_counts", {})


@pytest.fixture
def own_pipeline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test a pipeline of its own, which is not kept to the end of the process."""
    from agentlightning.pipeline import process

    own = vars(process)["_Process"]()
    monkeypatch.setattr(own, "hook", lambda: None)
    monkeypatch.setattr(process, "_process", own)
    yield
    process.flush(5)
