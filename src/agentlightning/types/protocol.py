"""What a lower layer needs of a higher one, as protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agentlightning.types.record import WriteBatch, WriteResult


class SpanWriter(Protocol):
    """Where the pipeline delivers; every store is one. Thread-safe."""

    @property
    def url(self) -> str | None:
        """URL under which another process can open the same store, or None."""
        ...

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch durably, in one transaction; see ``LightningStore.write_batch``."""
        ...

    def after_fork(self) -> None:
        """Make the writer usable in a forked child."""
        ...

    def close(self) -> object:
        """Give up files and connections; a later call opens them again. What it returns is of no interest."""
        ...
