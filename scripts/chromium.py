"""Print the Chromium of this machine; where there is none, install one first. Also used by ``matrix.py``.

Looks at ``$CHROMIUM`` and ``PATH``; installs by apt where that may be done, else by npm into ``.venvs/browser-npm``.
Standard library only. Ends with 1 and one line where no Chromium can be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
FOLDER = Path(__file__).parents[1] / ".venvs" / "browser-npm"
PACKAGE = "@sparticuz/chromium"
TIME_LIMIT_S = 600


def find() -> str | None:
    """Return the Chromium that is there, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def install() -> str:
    """Install one and return it.

    Raises:
        OSError: It cannot be installed, or does not start; the message says what was tried.
    """
    tried: list[str] = []
    for way in (_by_apt, _by_npm):
        try:
            program = way()
            _run(program, "--version")
        except (OSError, subprocess.SubprocessError) as error:
            tried.append(f"{way.__name__.rpartition('_')[2]}: {_reason(error)}")
        else:
            return program
    msg = f"no Chromium: put one on PATH or name it in $CHROMIUM ({'; '.join(tried)})"
    raise OSError(msg)


def _by_apt() -> str:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        msg = "needs root"
        raise PermissionError(msg)
    _run("apt-get", "update")
    _run("apt-get", "install", "--yes", "--no-install-recommends", "chromium-headless-shell")
    return find() or "chromium-headless-shell"


def _by_npm() -> str:
    FOLDER.mkdir(parents=True, exist_ok=True)
    _run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER), PACKAGE)
    code = f"import chromium from {PACKAGE!r}; console.log(await chromium.executablePath())"
    return _run("node", "--input-type=module", "--eval", code).split()[-1]


def _run(*command: str) -> str:
    done = subprocess.run(
        command,
        cwd=FOLDER if FOLDER.exists() else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=TIME_LIMIT_S,
    )
    return done.stdout


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return " ".join(str(error.stdout).split())[-200:]
    return str(error)


if __name__ == "__main__":
    try:
        print(find() or install())
    except OSError as problem:
        sys.exit(str(problem))
