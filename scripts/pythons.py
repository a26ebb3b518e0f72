"""Print the Pythons on this machine, oldest first, as ``3.10 /path/to/python``; also used by ``matrix.py``.

Looks on ``PATH`` and in pyenv's folder, where versions lie that no shim reaches. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

OLDEST = (3, 10)
NEWEST = (3, 14)


def pythons() -> dict[str, str]:
    """Return ``{"3.10": path, ...}`` of the versions that we support and that start, oldest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    found: dict[str, str] = {}
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        version = f"3.{minor}"
        on_path = shutil.which(f"python{version}")
        candidates = [on_path] if on_path else []
        candidates += sorted(str(path) for path in pyenv.glob(f"{version}.*/bin/python{version}"))
        works = next(filter(None, map(_executable, candidates)), None)
        if works:
            found[version] = works
    return found


def _executable(candidate: str) -> str | None:
    """Return the interpreter behind *candidate*, or None for a shim that leads nowhere or one without ``venv``."""
    code = "import sys, ssl, sqlite3, venv; print(sys.executable)"
    answer = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return answer.stdout.strip() if answer.returncode == 0 else None


if __name__ == "__main__":
    for version, path in pythons().items():
        print(version, path)
