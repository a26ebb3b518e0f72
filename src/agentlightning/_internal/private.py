"""Folders that only their owner may read, whatever the umask is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def private_folder(folder: Path) -> None:
    """Make *folder*, and the folders above it that are missing, with mode 0700; ``mkdir`` does that for the last only.

    Raises:
        OSError: It cannot be made, or something else has its name.
    """
    if not folder.parent.is_dir() and folder.parent != folder:
        private_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
