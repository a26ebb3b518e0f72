"""What a lower layer needs of a higher one, as protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from agentlightning.types.record import WriteBatch, WriteResult
    from agentlightning.types.resources import LLM


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


@runtime_checkable
class SwitchableWriter(Protocol):
    """A writer that may know several servers. Thread-safe."""

    def switch_server(self) -> bool:
        """Use the next server for a while; False when there is no other one."""
        ...


@runtime_checkable
class ModelProxy(Protocol):
    """What serves models and records each call to them; ``LLMProxy`` of the server is one. Thread-safe."""

    def start(self) -> object:
        """Serve, and return when requests are taken; does nothing while it runs."""
        ...

    def stop(self) -> None:
        """End after the requests under way; does nothing when it does not run."""
        ...

    def is_running(self) -> bool:
        """Tell whether requests are taken."""
        ...

    def as_resource(self, rollout_id: str | None = None, attempt_id: str | None = None) -> LLM:
        """Return the model as a resource: of one attempt, or, without ids, one that becomes an attempt's when used."""
        ...
