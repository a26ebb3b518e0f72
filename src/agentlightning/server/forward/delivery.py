"""One batch of spans on its way to a backend: tried again, divided, or skipped and counted."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from agentlightning.errors import AccessError, StoreUnavailableError
from agentlightning.server.forward.message import message_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentlightning.server.forward.target import BackendReply, OtlpTarget
    from agentlightning.types.record import SpanRecord

log = logging.getLogger("agentlightning.forward")

_HOPELESS = 8
"""So many single spans of a batch are refused, and none is taken, until the rest of it is skipped at once."""
_FAULTS = 5
"""So often a backend that answers 500 gets the same spans, until others are tried without them."""


@dataclass(frozen=True)
class ForwardOptions:
    """How spans are sent."""

    batch_spans: int = 500
    """Most spans in a request."""
    batch_bytes: int = 4 * 2**20
    """Size of a request, before compression, at which the next one begins; a single span may be larger."""
    first_pause_s: float = 0.5
    """Pause after the first failure; each further one is up to twice as long, with a random part."""
    longest_pause_s: float = 30.0
    patience_s: float | None = 60.0
    """How long to try a request that nobody takes, until ``StoreUnavailableError``; None: for ever."""

    def pause_s(self, failures: int) -> float:
        """Return the pause after so many failures in a row, in seconds."""
        longest = min(self.longest_pause_s, self.first_pause_s * 2 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


@dataclass
class ForwardCounts:
    """What was done, for the log, ``/metrics`` and the last line of a command."""

    sent: int = 0
    """Spans that the backend took."""
    rejected: int = 0
    """Spans that it did not want of a request that it took (OTLP partial success)."""
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    """Spans that were given up, by reason."""
    requests: int = 0
    retries: int = 0

    def skip(self, reason: str, count: int) -> None:
        """Count spans that are not sent again."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count
        log.warning("%d spans are not forwarded: %s", count, reason)

    def figures(self) -> dict[str, int]:
        """Return the counts by the names that ``/metrics`` gives them."""
        return {
            "forward_sent": self.sent,
            "forward_rejected": self.rejected,
            "forward_skipped": sum(self.skipped.values()),
            "forward_retries": self.retries,
        }

    def line(self) -> str:
        """Return the counts in words."""
        parts = [f"{self.sent:,} spans sent"]
        if self.rejected:
            parts.append(f"{self.rejected:,} rejected by the backend")
        parts += [f"{count:,} skipped ({reason})" for reason, count in sorted(self.skipped.items())]
        return ", ".join(parts)


def batches_of(records: Sequence[SpanRecord], options: ForwardOptions) -> list[list[SpanRecord]]:
    """Return *records* in batches that are bounded by number and by size, in their order."""
    batches: list[list[SpanRecord]] = []
    room = 0
    for record in records:
        size = _size_of(record)
        if not batches or size > room or len(batches[-1]) >= options.batch_spans:
            batches.append([])
            room = options.batch_bytes
        batches[-1].append(record)
        room -= size
    return batches


def _size_of(record: SpanRecord) -> int:
    """Return about how many bytes a span takes in a request: texts as they are, numbers as eight bytes."""
    size = 200
    for attributes in (record.attributes, *(part.attributes for part in (*record.events, *record.links))):
        size += 20
        for key, value in attributes.items():
            size += len(key) + 8
            if isinstance(value, str):
                size += len(value)
            elif isinstance(value, list):
                size += 10 * len(cast("list[object]", value))
    return size


class Delivery:
    """Sends one batch. One event loop."""

    def __init__(
        self,
        target: OtlpTarget,
        options: ForwardOptions,
        counts: ForwardCounts,
        sleep: Callable[[float], Awaitable[bool]],
    ) -> None:
        """Send to *target* and count in *counts*; *sleep* waits so many seconds and tells whether to stop."""
        self._target = target
        self._options = options
        self._counts = counts
        self._sleep = sleep
        self._was_taken = False
        self._refused_alone = 0
        self._faults: list[tuple[SpanRecord, BackendReply]] = []

    async def deliver(self, batch: Sequence[SpanRecord]) -> None:
        """Send *batch*; what a backend will never take is skipped, what is too large for it goes in halves.

        Raises:
            StoreUnavailableError: Nothing was taken for as long as the options say, or it was told to stop.
            AccessError: The backend refuses the address or the credentials.
        """
        pending = [_Part(list(batch))]
        while pending:
            part = pending.pop()
            if self._refused_alone >= _HOPELESS and not self._was_taken and part.why:
                self._counts.skip(part.why, len(part.spans))
                continue
            answer = await self._insist(part.spans)
            if answer is None or answer.verdict == "taken":
                continue
            if len(part.spans) > 1:
                middle = len(part.spans) // 2
                # The later half waits below the earlier one: the order of sending is the order of the spans.
                pending += [_Part(part.spans[middle:], answer.reason), _Part(part.spans[:middle], answer.reason)]
            elif answer.is_fault:
                self._faults.append((part.spans[0], answer))
            else:
                self._refused_alone += 1
                self._counts.skip(answer.reason, 1)
        self._judge_faults()

    def _judge_faults(self) -> None:
        """Skip the spans at which the backend failed while it took others; when it took none, it is the backend."""
        if self._faults and not self._was_taken:
            msg = f"{self._target.url} fails ({self._faults[0][1].reason})"
            raise StoreUnavailableError(msg)
        for _, answer in self._faults:
            self._counts.skip(answer.reason, 1)

    async def _insist(self, spans: list[SpanRecord]) -> BackendReply | None:
        """Send *spans* until there is an answer that counts; None when none of them can be sent at all."""
        body = await asyncio.to_thread(self._body_of, spans)
        if not spans:
            return None
        began = time.monotonic()
        failures = faults = 0
        while True:
            self._counts.requests += 1
            answer = await asyncio.to_thread(self._target.send, body)
            if answer.verdict == "taken":
                self._take(len(spans), answer)
                return answer
            if answer.verdict == "not_allowed":
                msg = f"{self._target.url} does not take spans: {answer.reason}; look at address, --header and --ca"
                raise AccessError(msg)
            failures, faults = failures + 1, faults + answer.is_fault
            if answer.verdict != "again" and not (answer.is_fault and faults < _FAULTS and not self._was_taken):
                return answer
            self._counts.retries += 1
            pause = max(self._options.pause_s(failures), answer.retry_after_s)
            patience = self._options.patience_s
            late = patience is not None and time.monotonic() - began + pause > patience
            if late or await self._sleep(pause):
                msg = f"{self._target.url} takes nothing now: {answer.reason}"
                raise StoreUnavailableError(msg)

    def _body_of(self, spans: list[SpanRecord]) -> bytes:
        """Return the request for *spans*, from which those are taken that OTLP cannot carry."""
        try:
            return message_of(spans).SerializeToString()
        except ValueError:
            good = [span for span in spans if _fits(span)]
            self._counts.skip("ids that OTLP does not know", len(spans) - len(good))
            spans[:] = good
            return message_of(spans).SerializeToString()

    def _take(self, count: int, answer: BackendReply) -> None:
        self._was_taken = True
        rejected = min(count, answer.rejected)
        self._counts.sent += count - rejected
        self._counts.rejected += rejected
        if rejected:
            log.warning("%s rejected %d of %d spans: %s", self._target.url, rejected, count, answer.reason)
        elif answer.reason:
            log.info("%s says: %s", self._target.url, answer.reason)


@dataclass
class _Part:
    """Spans of a batch that were not sent yet, and why the larger part that they come from was refused."""

    spans: list[SpanRecord]
    why: str = ""


def _fits(span: SpanRecord) -> bool:
    try:
        message_of([span])
    except ValueError:
        return False
    return True
