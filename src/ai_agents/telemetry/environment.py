"""Where a session runs: system, project, and the few environment variables that are of interest."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from ai_agents.telemetry.types import EnvironmentInfo

VARIABLES = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_DEFAULT_ENV", "HOME", "PWD")
"""The only environment variables that are noted."""

_PROJECT_FILES = (".git", "pyproject.toml", "setup.py", "requirements.txt")


def find_project_root(start: Path) -> str:
    """Return the nearest folder at or above *start* that looks like a project, else *start*."""
    try:
        for folder in (start, *start.parents):
            if any((folder / name).exists() for name in _PROJECT_FILES):
                return str(folder)
    except OSError:
        pass
    return str(start)


def read_environment() -> EnvironmentInfo:
    """Return what this process runs in; ``unknown`` where that cannot be found out."""
    try:
        system = (platform.system(), platform.release(), ".".join(platform.python_version_tuple()))
    except Exception:  # noqa: BLE001 - on odd systems the probe runs programs and parses files
        system = ("unknown", "unknown", "unknown")
    try:
        working = Path.cwd()
    except OSError:  # it was deleted under the process
        working = Path(os.environ.get("PWD", "."))
    user = next((os.environ[name] for name in ("USER", "USERNAME", "LOGNAME") if os.environ.get(name)), None)
    return EnvironmentInfo(
        *system,
        str(working),
        find_project_root(working),
        user_name=user,
        timezone=time.tzname[0] if time.tzname else "UTC",
        environment_variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )
