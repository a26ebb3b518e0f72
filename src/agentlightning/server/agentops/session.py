"""A session of the SDK as a rollout: each trace is one, named by its root span, with tags and end state.

Traces of a program that made its own rollouts (``AgentOpsTracer``, ``agl run``) belong to those and are left alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from typing import TYPE_CHECKING, NamedTuple, cast

from agentlightning._internal.ids import implicit_ids
from agentlightning.errors import TransitionError
from agentlightning.semconv import SpanAttributeNames, SpanNames
from agentlightning.types.record import AttemptEnd, ResourceRecord, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentlightning.store.base import LightningStore

LOG_MARK = "agentops.log"
"""Attribute that tells a log of a session from other messages."""
METADATA_KEY = "agentops"
"""Where the metadata of a rollout say what the session was."""

_TAGS, _END_STATES = "agentops.tags", ("agentops.session.end_state", "session.end_state")
_GOOD = frozenset({"success", "ok", "statuscode.ok", "tracestate.success"})
_BAD = frozenset({"error", "fail", "failed", "failure", "statuscode.error", "tracestate.error"})
_MAX_TAGS, _MAX_TAG_CHARS = 50, 200
_SUFFIX = ".session"
_LINE_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) - ")
_LONGEST_LOG_NS = 7 * 86_400 * 10**9
_HEX_DIGITS, _MOST_DECIMAL_DIGITS = 32, 39


class Session(NamedTuple):
    """What the root span of a session says."""

    name: str
    tags: list[str]
    end_state: str
    """As the program wrote it, such as ``Success``; empty when it wrote none."""
    status: str
    """``succeeded`` or ``failed``."""

    def line(self) -> str:
        """Return the session in one line, as ``agl ls`` shows it."""
        tags = f" [{', '.join(self.tags)}]" if self.tags else ""
        return self.name + tags + (f" {self.end_state}" if self.end_state else "")


def session_of(record: SpanRecord) -> Session:
    """Return what a root span says about its session."""
    attributes = record.attributes
    end_state = next((str(attributes[key])[:_MAX_TAG_CHARS] for key in _END_STATES if key in attributes), "")
    word = end_state.lower()
    failed = word in _BAD or (word not in _GOOD and record.status_code == "ERROR")
    return Session(
        name=record.name.removesuffix(_SUFFIX)[:_MAX_TAG_CHARS],
        tags=tags_of(attributes),
        end_state=end_state.removeprefix("StatusCode.").removeprefix("TraceState."),
        status="failed" if failed else "succeeded",
    )


def tags_of(attributes: Mapping[str, object]) -> list[str]:
    """Return the tags of a span: a list, a list as JSON text, or names separated by commas."""
    value: object = attributes.get(_TAGS)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, dict):
        value = [f"{key}={item}" for key, item in cast("dict[object, object]", value).items()]
    if not isinstance(value, list):
        value = [] if value is None else [value]
    return [str(item)[:_MAX_TAG_CHARS] for item in cast("list[object]", value)[:_MAX_TAGS]]


async def note_sessions(store: LightningStore, records: Iterable[SpanRecord]) -> None:
    """Give the implicit rollout of each root span among *records* its name, tags and end; safe to repeat.

    Raises:
        StoreError: The store took some or none of it; the same call may be repeated.
    """
    for record in records:
        if record.parent_id is not None or record.scope_name == LOG_MARK:
            continue
        if (record.rollout_id, record.attempt_id) != implicit_ids(record.trace_id):
            continue
        session = session_of(record)
        noted = {"session": session.name, "tags": session.tags, "end_state": session.end_state}
        rollout = await store.get_rollout_by_id(record.rollout_id)
        if rollout is None or (rollout.metadata or {}).get(METADATA_KEY, noted) != noted:
            continue  # deleted meanwhile, or another root of the same trace came first
        await store.update_rollout(
            record.rollout_id, input=session.line(), metadata={**(rollout.metadata or {}), METADATA_KEY: noted}
        )
        end = AttemptEnd(
            rollout_id=record.rollout_id,
            attempt_id=record.attempt_id,
            status=session.status,
            # Its log may have come first, and the rollout begins with what comes first.
            end_ns=max(record.end_ns or record.start_ns, int(rollout.start_time * 1e9) + 1000),
        )
        try:
            await asyncio.to_thread(store.write_batch, WriteBatch(ends=[end], project=store.project))
        except TransitionError:
            continue  # it ended before, which stays as it is


def log_record(trace_id: str, text: str, now_ns: int, owner: tuple[str, str] | None) -> SpanRecord:
    """Return the log of a trace as a message span; the same log has the same id, so it is stored once.

    Its time is that of its first line, where one is written there: a log arrives at the end of what it tells of, and
    often before the spans.
    """
    now_ns = _time_of_first_line(text, now_ns)
    rollout_id, attempt_id = owner or implicit_ids(trace_id)
    digest = hashlib.blake2b(f"{trace_id}\0{text}".encode("utf-8", "replace"), digest_size=8).hexdigest()
    return SpanRecord(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        counter=1,
        trace_id=trace_id,
        span_id=digest,
        name=SpanNames.MESSAGE.value,
        start_ns=now_ns,
        end_ns=now_ns,
        attributes={SpanAttributeNames.MESSAGE.value: text, LOG_MARK: True},
        resource=ResourceRecord({}),
        scope_name=LOG_MARK,
    )


def _time_of_first_line(text: str, now_ns: int) -> int:
    match = _LINE_TIME.match(text)
    if match is None:
        return now_ns
    try:
        seconds = time.mktime(time.strptime(match[1], "%Y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError):
        return now_ns
    found = int(seconds) * 10**9 + int(match[2]) * 10**6
    # The line has the sender's own time zone: a time that cannot be is one of another zone.
    return found if now_ns - _LONGEST_LOG_NS < found <= now_ns else now_ns


def trace_id_of(text: str, *, decimal: bool = False) -> str | None:
    """Return a trace id as 32 hexadecimal digits, or None for what is none.

    The SDK writes it in decimal where it sends a log, and everybody else in hexadecimal; *decimal* says which one a
    text is that could be both.
    """
    text = text.strip().lower()
    is_hex = len(text) == _HEX_DIGITS and all(digit in "0123456789abcdef" for digit in text)
    if text.isascii() and text.isdigit() and (decimal or not is_hex) and len(text) <= _MOST_DECIMAL_DIGITS:
        number = int(text)
    elif is_hex:
        number = int(text, 16)
    else:
        return None
    return f"{number:032x}" if 0 < number < 2**128 else None
