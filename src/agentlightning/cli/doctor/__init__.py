"""``agl doctor``: is everything in place, what was lost and why, and what happens to the store right now."""

from agentlightning.cli.doctor.command import ENTRY_POINTS, command

__all__ = ["ENTRY_POINTS", "command"]
