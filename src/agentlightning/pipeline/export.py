"""Delivery of records to stores: each batch in parts by store, each store with its lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning.pipeline.lane import Health, Lane
from agentlightning.pipeline.redaction import rules_hash
from agentlightning.types.protocol import SwitchableWriter
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.types.protocol import SpanWriter

_MOST_IDLE = 16
"""Lanes that are kept though nothing waits in them."""


class Exporter:
    """Hands batches to the writers of their attempts, in order, each store for itself.

    ``put`` runs under the worker's lock of order, in whatever thread; ``deliver`` only in the worker.
    """

    def __init__(
        self,
        route: Callable[[str], SpanWriter],
        ledger: Ledger,
        health: Health | None = None,
        *,
        project: str | None = None,
    ) -> None:
        """Use the writer that *route* returns for an attempt id, count in *ledger*, note deliveries in *health*.

        *project*: Where rollouts go that nobody started; None: ``AGL_PROJECT``, as it is when they are written.
        """
        self._route = route
        self._project = project
        self._ledger = ledger
        self._health = health or Health()
        self._lanes: dict[int, Lane] = {}

    def waiting(self) -> bool:
        """Tell whether a store could not take something yet."""
        return any(lane.is_waiting for lane in list(self._lanes.values()))

    def is_busy(self) -> bool:
        """Tell whether something waits, or what other processes left is being replayed."""
        return any(lane.is_busy for lane in list(self._lanes.values()))

    def may_resolve_flushes(self) -> bool:
        """Tell whether everything is delivered, or no store that is away is worth waiting for."""
        return not any(lane.is_waiting and not lane.is_given_up for lane in list(self._lanes.values()))

    def put(self, batch: WriteBatch, *, relieve: bool = False) -> None:
        """Take new records, in the order of hand-over.

        Args:
            batch: May be empty.
            relieve: A writer may be stuck: put the records on the disk where that is possible.
        """
        for lane, part in self._by_lane(batch):
            lane.put(part, relieve=relieve)

    def deliver(self, *, patient: bool = True, now: bool = True) -> None:
        """Write what waits.

        Args:
            patient: Not to a store whose pause is not over.
            now: Also to a remote store what could wait for more.
        """
        for lane in list(self._lanes.values()):
            lane.deliver(patient=patient, now=now)

    def forget_idle(self) -> None:
        """Keep few lanes where stores are many and short-lived; under the worker's lock of order, as ``put`` is."""
        for key, lane in list(self._lanes.items()):
            if len(self._lanes) <= _MOST_IDLE:
                return
            if not lane.is_busy:
                del self._lanes[key]

    @property
    def bytes(self) -> int:
        """Estimate of the heap that everything on its way takes."""
        return sum(lane.bytes for lane in list(self._lanes.values()))

    def spill(self) -> None:
        """Bring what waits in memory to the disk where that is possible; under the worker's lock of order."""
        for lane in list(self._lanes.values()):
            lane.spill()

    @property
    def has_remote(self) -> bool:
        """Whether a store is not on this machine: a request takes longer than a span may be without a disk."""
        return any(lane.is_remote for lane in list(self._lanes.values()))

    def switch_server(self) -> bool:
        """Use the next address of the stores that have several; False where there is none."""
        writers = [lane.writer for lane in list(self._lanes.values())]
        return sum(writer.switch_server() for writer in writers if isinstance(writer, SwitchableWriter)) > 0

    def rescue(self, deadline: float = 0.0) -> None:
        """At the end of the process: bring what waits to the disk, and count what cannot be brought there as lost.

        *deadline*: Until when, by the monotonic clock, it may wait for another process that has the spill.
        """
        for lane in list(self._lanes.values()):
            lane.rescue(deadline)

    def abandon(self) -> None:
        """In a forked child: leave the parent's files to the parent."""
        for lane in self._lanes.values():
            lane.abandon()

    def _by_lane(self, batch: WriteBatch) -> Iterable[tuple[Lane, WriteBatch]]:
        parts: dict[int, tuple[Lane, WriteBatch]] = {}
        rules = rules_hash()
        project = self._project or settings.get(settings.PROJECT)
        for name in ("starts", "spans", "ends"):
            for record in getattr(batch, name):
                writer = self._route(record.attempt_id)
                part = parts.get(id(writer))
                if part is None:
                    part = (self._lane(writer), WriteBatch(project=project, rules=rules))
                    parts[id(writer)] = part
                getattr(part[1], name).append(record)
        return parts.values()

    def _lane(self, writer: SpanWriter) -> Lane:
        lane = self._lanes.get(id(writer))
        if lane is None:
            lane = self._lanes[id(writer)] = Lane(writer, self._ledger, self._health, project=self._project)
        return lane
