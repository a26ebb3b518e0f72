"""Sending what a store has committed on to an OTLP backend: at least once, in bounded batches, from where it stopped.

Reads the store by its change cursor, so it costs writers nothing. The cursor is written down after what it covers was
taken: who is killed sends at most the last 2,000 spans again, with the same ids.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agentlightning.errors import StoreError
from agentlightning.server.forward.delivery import Delivery, ForwardCounts, ForwardOptions, batches_of
from agentlightning.types.change import BEGINNING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentlightning.server.forward.cursor import CursorFile
    from agentlightning.server.forward.target import OtlpTarget
    from agentlightning.store.base import LightningStore
    from agentlightning.types.change import ChangeCursor
    from agentlightning.types.query import SpanRow
    from agentlightning.types.record import SpanRecord

log = logging.getLogger("agentlightning.forward")

_WAIT_S = 1.0
"""How long the store is asked to wait for something to happen; ``stop`` may take as long."""
_COLLECT_S = 0.5
"""Pause after something was sent, so that the next request holds more than a few spans."""


class Forwarder:
    """Sends the ended spans of one project of a store to a backend. One event loop; one run at a time."""

    def __init__(
        self,
        store: LightningStore,
        target: OtlpTarget,
        *,
        cursor: CursorFile | None = None,
        wants: Callable[[SpanRow], bool] | None = None,
        options: ForwardOptions | None = None,
    ) -> None:
        """Send from *store* to *target*.

        Args:
            store: The store, and with it the project; neither is closed here.
            target: Where to.
            cursor: Where to remember how far it came; None: begins with all that is stored.
            wants: Which spans to send, told from their shape (rollout, trace, name, facts); None: all.
            options: Sizes and pauses.
        """
        self.counts = ForwardCounts()
        self._store = store
        self._target = target
        self._file = cursor
        self._wants = wants
        self._options = options or ForwardOptions()
        self._stop = asyncio.Event()

    async def run_once(self) -> ForwardCounts:
        """Send all that is committed and not sent yet, and return the counts.

        Raises:
            StoreUnavailableError: The backend took nothing for ``patience_s``; the next run sends the rest.
            AccessError: The backend refuses the address or the credentials.
            StoreError: The store cannot be read.
        """
        await self._catch_up(await self._resume())
        return self.counts

    async def follow(self) -> ForwardCounts:
        """Send what is committed until ``stop`` is called. Trouble with store or backend is logged and waited for."""
        cursor: ChangeCursor | None = None
        failures = 0
        while not self._stop.is_set():
            try:
                before = self.counts.requests
                cursor = await self._catch_up(cursor or await self._resume(), wait_s=_WAIT_S)
            except StoreError as error:
                cursor = None  # what was sent since the last note is sent again
                failures += 1
                if not self._stop.is_set() and (failures in {1, 10} or not failures % 100):
                    log.warning("forwarding waits: %s", error)
                await self._sleep(self._options.pause_s(failures))
            else:
                failures = 0
                if self.counts.requests != before:
                    await self._sleep(_COLLECT_S)
        return self.counts

    def stop(self) -> None:
        """End ``follow`` soon; to be called in its event loop."""
        self._stop.set()

    async def send(self, records: Sequence[SpanRecord]) -> None:
        """Send *records* whatever the cursor says; errors as in ``run_once``."""
        for batch in batches_of(records, self._options):
            await Delivery(self._target, self._options, self.counts, self._sleep).deliver(batch)

    async def _resume(self) -> ChangeCursor:
        return BEGINNING if self._file is None else await self._file.read(self._store)

    async def _catch_up(self, cursor: ChangeCursor, wait_s: float = 0.0) -> ChangeCursor:
        """Send what is behind *cursor*, for which it waits so long, and return the new one."""
        while not self._stop.is_set():
            changes = await self._store.query_changes(cursor, wait_s=wait_s)
            wait_s = 0.0
            last = await self._send_rows(changes.spans)
            cursor = changes.cursor
            if not changes.spans:
                break
            if self._file is not None:
                await asyncio.to_thread(self._file.write, cursor, last)
        return cursor

    async def _send_rows(self, rows: Sequence[SpanRow]) -> tuple[str, str] | None:
        """Send the ended ones of *rows* that are wanted, and return the key of the last."""
        ended = [row for row in rows if row.end_ns is not None and (self._wants is None or self._wants(row))]
        ended.sort(key=lambda row: (row.rollout_id, row.sequence_id))
        keys = [(row.trace_id, row.span_id) for row in ended]
        for start in range(0, len(keys), self._options.batch_spans):
            found = await self._store.query_spans_by_key(keys[start : start + self._options.batch_spans])
            await self.send([span.to_record() for span in found])
        return keys[-1] if keys else None

    async def _sleep(self, seconds: float) -> bool:
        """Wait, but not longer than until ``stop``; tell whether it was called."""
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True
