"""The bounded queue between a program's threads and the worker: O(1), in order, never silent about a loss."""

from __future__ import annotations

import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry.sdk.trace import ReadableSpan

from agentlightning import settings
from agentlightning.pipeline.receipt import drop
from agentlightning.pipeline.sampling import ALWAYS as PRECIOUS
from agentlightning.pipeline.sampling import quick

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.types.record import AttemptEnd, RolloutStart

_FIRST_GUESS_BYTES = 5_600
"""Heap that a queued span of 1 KB holds, measured; the worker corrects it by what it sees."""


class EndedSpan(msgspec.Struct, frozen=True, gc=False):
    """A span that ended, with its place in the order of hand-over."""

    counter: int
    span: ReadableSpan


class OpenSpan(msgspec.Struct, frozen=True):
    """A span that has been running for a while: a note that it exists."""

    span: ReadableSpan


class Flush:
    """Somebody waits until everything before it has been delivered, or has been given up for now."""

    def __init__(self) -> None:
        """Begin to wait."""
        self._done = threading.Event()
        self._is_delivered = False
        self.is_tried = False
        """Whether the stores were tried for it once; afterwards it keeps to their pauses."""

    def resolve(self, *, delivered: bool) -> None:
        """Let the waiting thread go on."""
        self._is_delivered = delivered
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Return whether everything was delivered within *timeout_s* seconds."""
        return self._done.wait(timeout_s) and self._is_delivered


Item = Any
"""One of ``EndedSpan``, ``OpenSpan``, ``RolloutStart``, ``AttemptEnd``, ``Flush``; a union costs time to check."""


class TokenBucket:
    """How many spans the setting ``rate_limit`` lets through: a token for each, so many a second, some in store."""

    def __init__(self) -> None:
        """Begin full."""
        self._tokens = float("inf")
        self._at = 0.0

    def takes(self) -> bool:
        """Take a token if there is one; called with the queue's lock held."""
        rate, burst = settings.derive("rate_limit", _rate_limit)
        quick.look()
        if not rate:
            return True
        now = time.monotonic()
        self._tokens = min(float(burst), self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _rate_limit() -> tuple[float, int]:
    return settings.get(settings.RATE_LIMIT), settings.get(settings.RATE_BURST)


class Wake:
    """Wakes one waiting thread. Unlike an ``Event`` it may interrupt itself: in a signal handler or a finalizer."""

    def __init__(self) -> None:
        """Begin unset."""
        self._tokens: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Let the waiting thread, or the next one that waits, go on."""
        if self._tokens.empty():
            self._tokens.put(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until ``set`` was called, which is over then; False after *timeout_s* seconds."""
        try:
            self._tokens.get(timeout=timeout_s)
        except Empty:
            return False
        return True

    def clear(self) -> None:
        """Forget earlier calls of ``set``."""
        while self.wait(0):
            pass


class SpanQueue:
    """First in, first out, in two lanes: rewards and exceptions are dropped last. Bounded by an estimate of heap."""

    def __init__(self, max_bytes: int, ledger: Ledger) -> None:
        """Hold at most about *max_bytes* of heap; count produced and dropped spans in *ledger*."""
        self.wake = Wake()
        """Set to make the worker look at once."""
        self._items: deque[Item] = deque()
        self._ledger = ledger
        self._produced = ledger.produced
        self._max_bytes = max_bytes
        self._item_bytes = float(_FIRST_GUESS_BYTES)
        self._room = self._half = self._fitted = 0
        # Reentrant: a signal handler, or the garbage collector, may end a span in a thread that is in here.
        self._lock = threading.RLock()
        self._drained = threading.Condition(self._lock)
        self._counter = 0
        self._spans = 0
        self._takes = 0
        """How often the worker has taken something."""
        self._bucket = TokenBucket()
        self._shedding = False
        self._pressed = False
        self.on_pressure: Callable[[], None] = _do_nothing
        """Called when the queue has become half full; must be quick."""
        self.urgent = False
        """Somebody waits for what is in the queue, or it is half full: the worker must not pause."""
        self.sleeping = True
        """The worker waits without a clock; the next item has to wake it."""
        self._fit()

    def put_ended(self, span: ReadableSpan) -> bool:
        """Take a span that ended: count it, number it, queue it. Returns False when it had to be dropped.

        O(1). Only when the queue is full it waits, as the policy of its lane says, once until there is room again: a
        store that hangs delays the program once and not for every span. Lanes decide what is dropped; the order of what
        is written is that of hand-over.
        """
        press = False
        with self._lock:
            if quick.changes != self._fitted:
                self._fit()
            if quick.is_limited and span.name not in PRECIOUS and not self._bucket.takes():
                self.refuse("filtered")
                drop(span, "filtered")
                return False
            fits = self._spans < self._room or self._make_room(precious=span.name in PRECIOUS)
            self._counter = counter = self._counter + 1
            self._produced[0] = counter
            if not fits:
                self._ledger.count("queue_full")
                return False
            self._spans += 1
            self._items.append(EndedSpan(counter, span))
            wake = self.sleeping
            if self._spans >= self._half:
                press = not self._pressed
                if press or not self.urgent:
                    wake = self.urgent = self._pressed = True
        if wake:
            self.wake.set()
            if press:
                self.on_pressure()
        return True

    def refuse(self, reason: str) -> None:
        """Count a span that was produced and is not kept."""
        with self._lock:
            self._counter = counter = self._counter + 1
            self._produced[0] = counter
            self._ledger.count(reason)

    def number(self) -> int:
        """Count a span that the pipeline itself makes as produced, and return its place in the order."""
        with self._lock:
            self._counter = counter = self._counter + 1
            self._produced[0] = counter
        return counter

    def is_pressed(self) -> bool:
        """Tell whether the queue is half full; once that was denied, ``on_pressure`` is called again when it is."""
        with self._lock:
            self._pressed = self._spans >= self._half
            return self._pressed

    def put(self, item: OpenSpan | RolloutStart | AttemptEnd | Flush) -> None:
        """Take something that is not a finished span; never waits, never drops."""
        with self._lock:
            self._items.append(item)
            self.urgent = True
        self.wake.set()

    def _make_room(self, *, precious: bool) -> bool:
        """Make room for a span as the policy of its lane says; called with the lock held."""
        setting = settings.QUEUE_POLICY_PRIORITY if precious else settings.QUEUE_POLICY
        if settings.get(setting) == "DROP_OLDEST":
            return self._push_out(precious=precious)
        return self._wait_for_room() or (precious and self._push_out(precious=True))

    def _push_out(self, *, precious: bool) -> bool:
        """Drop the oldest span, those of the other lane first; False when all there are must stay."""
        oldest: tuple[int, EndedSpan] | None = None
        for place, item in enumerate(self._items):  # the first one, as a rule
            if type(item) is EndedSpan:
                if item.span.name not in PRECIOUS:
                    oldest = (place, item)
                    break
                if precious and oldest is None:
                    oldest = (place, item)
        if oldest is None:
            return False
        place, item = oldest
        del self._items[place]
        self._spans -= 1
        self._ledger.count("queue_full")
        drop(item.span, "queue_full")
        return True

    def _wait_for_room(self) -> bool:
        """Wait until a span fits, for as long as the worker gets on; called with the lock held."""
        if self._shedding:
            return False
        self.wake.set()
        wait_s = settings.get(settings.QUEUE_BLOCK_MS) / 1000
        seen = -1
        while seen != self._takes:
            seen = self._takes
            # Beside other threads that want the same room one may go away empty; the worker has not failed then.
            self._drained.wait_for(lambda: self._spans < self._room, wait_s)
            if self._spans < self._room:
                return True
        self._shedding = True  # until the worker has made room again nobody waits a second time
        return False

    def take(self, limit: int) -> list[Item]:
        """Return up to *limit* items, or half of what fits where spans are large, oldest first; for the worker."""
        with self._lock:
            # One by one: between a copy of all and a clear() the garbage collector may end a span in this thread.
            taken = [self._items.popleft() for _ in range(min(limit, self._half, len(self._items)))]
            if taken:
                self._spans -= sum(type(item) is EndedSpan for item in taken)
                self._takes += 1
                self._shedding = False
                self._drained.notify_all()
            self.urgent = self._spans >= self._half or (self.urgent and bool(self._items))
        return taken

    def learn(self, bytes_per_span: float) -> None:
        """Correct the estimate of a span's heap by what the worker measured for a batch."""
        # Five to six bytes of heap for a byte of text, measured; the objects of a span without text take 2 KB.
        seen = 2_000 + 3.5 * bytes_per_span
        with self._lock:
            self._item_bytes += 0.2 * (seen - self._item_bytes)
            self._fit()

    def _fit(self) -> None:
        """Compute how many spans there is room for; called with the lock held."""
        self._fitted = quick.changes
        max_bytes = min(self._max_bytes, settings.get(settings.MEMORY_THRESHOLD) // 2)
        self._room = max(1, int(max_bytes / self._item_bytes))
        self._half = max(1, self._room // 2)

    @property
    def bytes(self) -> float:
        """Estimate of the heap that the waiting spans hold."""
        return self._spans * self._item_bytes

    @property
    def spills(self) -> bool:
        """Whether a full queue is brought to the disk while its worker is busy."""
        return "SPILL" in {settings.get(settings.QUEUE_POLICY), settings.get(settings.QUEUE_POLICY_PRIORITY)}

    def waiting(self) -> int:
        """Return how many items wait."""
        return len(self._items)


def _do_nothing() -> None:
    """Nobody listens."""
