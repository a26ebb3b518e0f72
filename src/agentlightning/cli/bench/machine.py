"""Where a figure was measured, and a surrounding in which the user's settings play no part."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_OURS = ("AGL_", "OTEL_", "AGENTOPS_", "TRACEPARENT", "PYTHONPATH")


def machine() -> dict[str, str]:
    """Return what a figure depends on: processors, system, Python, and the versions of what is measured."""
    return {
        "cpus": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "opentelemetry-sdk": version("opentelemetry-sdk"),
        "agentlightning": version("agentlightning"),
    }


def described() -> str:
    """Return the machine on one line."""
    known = machine()
    head = f"{known['cpus']} CPUs, {known['system']}, Python {known['python']}, SQLite {known['sqlite']}"
    return f"{head}, opentelemetry-sdk {known['opentelemetry-sdk']}, agentlightning {known['agentlightning']}"


def surrounding(folder: Path) -> dict[str, str]:
    """Return the environment of a program that is measured: a store of its own in *folder*, settings at their defaults.

    It is inside a rollout, as under ``agl run``.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    places = {name: str(folder) for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    rollout = {"AGL_ROLLOUT_ID": "ro-bench", "AGL_ATTEMPT_ID": "at-bench"}
    return kept | places | rollout | {"AGL_STORE": str(folder / "bench.db")}
