"""What an export took, and why it left the rest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_TOKENS = "no token ids"
NO_MESSAGES = "no messages"
NO_ANSWER = "no answer"
FAILED = "the call failed"
OPEN = "still running, or interrupted"
REPEATED = "recorded before, with the same id of the answer"
BEGINNING = "the beginning of a longer conversation"
TOO_LITTLE = "reward below the minimum"
NO_COUNTERPART = "no other conversation of the same task with another reward"

NO_REWARD = "without reward"
ANSWERS = "several answers, of which the first was taken"
CUT_SHORT = "a stream that was not read to its end"

NO_CALLS = "no model call"
GAP = "a gap in the sequence of spans"
UNFINISHED = "not finished"


class Coverage(msgspec.Struct):
    """Counts of one export. ``calls = exported + the sum of left_out``; what is noted was exported all the same."""

    rollouts: int = 0
    calls: int = 0
    """Model calls, each once however many libraries recorded it; with those left out as recorded before."""
    exported: int = 0
    """Calls that are in the file."""
    lines: int = 0
    """Lines or rows of the file."""
    left_out: Counter[str] = msgspec.field(default_factory=Counter[str])
    """Calls that are not in the file, by reason."""
    noted: Counter[str] = msgspec.field(default_factory=Counter[str])
    """Calls that are in the file, by what is odd about them."""
    rollouts_noted: Counter[str] = msgspec.field(default_factory=Counter[str])
    """Rollouts, by what is odd about them."""

    def text(self) -> Iterator[str]:
        """Yield the report as lines for people."""
        yield f"{self.exported:,} of {self.calls:,} model calls exported, from {self.rollouts:,} rollouts"
        for title, counts in (("left out", self.left_out), ("noted", self.noted), ("rollouts", self.rollouts_noted)):
            for reason, number in sorted((+counts).items(), key=lambda item: (-item[1], item[0])):
                yield f"  {title}: {number:,} {reason}"
