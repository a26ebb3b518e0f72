"""What ``agl doctor`` says about sessions: are they recorded, is there room for them, what do they cost."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from agentlightning import settings
from ai_agents.telemetry.data_store import LOW_WATER_BYTES
from ai_agents.telemetry.folder import default_folder, free_bytes, own_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROOM_BYTES = 20 * LOW_WATER_BYTES


def findings() -> Iterator[tuple[bool, str, str]]:
    """Yield whether it is well, what was looked at and what was found; nothing is made or changed."""
    yield True, "sessions", _recording()
    folder = default_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK) or not existing.is_dir():
        yield False, "session files", f"{existing} cannot be written; sessions go to the temporary folder"
        return
    yield _room(folder, existing)
    yield True, "session cost", _overhead()


def _recording() -> str:
    """Say whether agents are recorded, and why not."""
    if not settings.lookup(settings.ENABLED)[0]:
        return "not recorded: AGL_ENABLED is 0"
    words = [word.strip() for word in settings.lookup(settings.INSTRUMENT)[0].split(",") if word.strip()]
    chosen = [word for word in words if not word.startswith("-")]
    if "-smolagents" in words or (chosen and "smolagents" not in chosen):
        return f"only what is recorded by hand: AGL_INSTRUMENT={','.join(words)} leaves smolagents out"
    if find_spec("smolagents") is None:
        return "only what is recorded by hand: pip install 'agentlightning[smolagents]'"
    return "recorded where ai_agents is imported; TelemetryManager.is_enabled() says it in a program"


def _room(folder: Path, existing: Path) -> tuple[bool, str, str]:
    files = [path.stat().st_size for path in own_files(folder)]
    damaged = sum(".corrupted_" in path.name for path in own_files(folder))
    text = f"{len(files)} files, {sum(files) / 2**20:.1f} MB in {folder}"
    if damaged:
        text += f", {damaged} of them damaged and put aside"
    free = free_bytes(existing)
    if free is not None and free < _ROOM_BYTES:
        advice = "TelemetryManager.get_instance().cleanup_old_data(max_age_days=7) deletes old ones"
        return False, "session files", f"{text}; only {free / 2**20:.0f} MB are free: {advice}"
    return True, "session files", text


def _overhead() -> str:
    return (
        "get_storage_stats()['overhead_us_per_span'] measures it in a program; flush_interval (s) and "
        "max_memory_sessions lower it"
    )
