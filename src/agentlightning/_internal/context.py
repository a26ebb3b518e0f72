"""The running rollout: a context variable with the process's own as fallback.

Standard library only: it is read on every span start and by children before anything else is loaded.
"""

from __future__ import annotations

import functools
import os
import re
from contextvars import ContextVar
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")


@dataclass(frozen=True, slots=True)
class RunningRollout:
    """Where spans that start now belong."""

    rollout_id: str
    attempt_id: str
    trace_id: int
    """Trace id for spans that have no parent."""
    parent_span_id: int | None = None
    """Span of another process under which root spans of this one hang, if any."""
    store_url: str | None = None
    """Store of this rollout, None for the default one or for a store that has no URL."""
    sample_rate: float | None = None
    """Rate at which its spans are sampled, fixed when it began; None for the one that is set."""


running: ContextVar[RunningRollout | None] = ContextVar("agentlightning_rollout", default=None)
"""Rollout of the current task or thread; None means the process's own."""


def parse_traceparent(text: str | None) -> tuple[int, int] | None:
    """Return trace id and span id of a W3C ``traceparent``, or None when it is absent or malformed."""
    match = _TRACEPARENT.match(text or "")
    if match is None:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    return (trace_id, span_id) if trace_id and span_id else None


def format_traceparent(trace_id: int, span_id: int) -> str:
    """Return the W3C ``traceparent`` of a sampled span."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"


@functools.lru_cache(maxsize=1)
def home_rollout() -> RunningRollout | None:
    """Return the rollout that this process was started for, by ``agl run`` or a parent process, or None.

    Read from the environment once: children get their own.
    """
    rollout_id, attempt_id = os.environ.get("AGL_ROLLOUT_ID"), os.environ.get("AGL_ATTEMPT_ID")
    if not rollout_id or not attempt_id:
        return None
    from agentlightning._internal.ids import new_trace_id, virtual_span_id  # noqa: PLC0415 - hashlib, only when traced

    parent = parse_traceparent(os.environ.get("TRACEPARENT"))
    trace_id, span_id = parent or (new_trace_id(), None)
    if span_id == virtual_span_id(attempt_id):
        span_id = None
    return RunningRollout(rollout_id, attempt_id, trace_id, span_id, os.environ.get("AGL_STORE"))
