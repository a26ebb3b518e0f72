"""Time: nanoseconds since the epoch inside, seconds as float outside."""

import time

NS_PER_S = 1_000_000_000


def now_ns() -> int:
    """Return the wall clock in nanoseconds since the epoch."""
    return time.time_ns()


def to_seconds(ns: int | None) -> float | None:
    """Turn nanoseconds into seconds; None stays None."""
    return None if ns is None else ns / NS_PER_S


def to_ns(seconds: float | None) -> int | None:
    """Turn seconds into nanoseconds; None stays None."""
    return None if seconds is None else round(seconds * NS_PER_S)
