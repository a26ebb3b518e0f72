"""A span on its way in: one flat record, made once by the worker thread, written by every store.

``Span`` of ``types.tracer`` is the public model, built from a record when it is read.
"""

from __future__ import annotations

from typing import Any

import msgspec

AttributeMap = dict[str, Any]
"""Attribute values as OpenTelemetry allows them: str, bool, int, float, or a list of one of these."""


JsonObject = dict[str, Any]
"""A JSON object of no fixed shape."""

Metadata = dict[str, Any]
"""What its owner attaches to a rollout or an attempt: any JSON, which only he knows the shape of."""


class ResourceRecord(msgspec.Struct, frozen=True, eq=False):
    """The OpenTelemetry resource of a span; the same object for all spans of a provider."""

    attributes: AttributeMap
    schema_url: str = ""


class EventRecord(msgspec.Struct):
    """An event on a span."""

    name: str
    time_ns: int
    attributes: AttributeMap = {}


class LinkRecord(msgspec.Struct):
    """A link to another span."""

    trace_id: str
    span_id: str
    attributes: AttributeMap = {}
    trace_state: str = ""


class SpanRecord(msgspec.Struct, kw_only=True):
    """One span, ended (``end_ns`` set) or still open (``end_ns`` None)."""

    rollout_id: str
    attempt_id: str
    counter: int
    """Place in the order of hand-over within the process that made the span, from 1."""
    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    parent_id: str | None = None
    name: str
    kind: str = "INTERNAL"
    """Name of the OpenTelemetry span kind."""
    start_ns: int
    end_ns: int | None = None
    status_code: str = "UNSET"
    """``UNSET``, ``OK`` or ``ERROR``."""
    status_description: str | None = None
    attributes: AttributeMap = {}
    events: list[EventRecord] = []
    links: list[LinkRecord] = []
    resource: ResourceRecord
    scope_name: str = ""
    scope_version: str = ""
    trace_state: str = ""
    process: str = ""
    """``host/pid/start`` of the process that made the span."""


class RolloutStart(msgspec.Struct, kw_only=True):
    """A rollout with an attempt, to be created before the spans of the same batch; what exists stays as it is."""

    rollout_id: str
    attempt_id: str
    project: str
    input: Any = None
    start_ns: int
    mode: str | None = None
    implicit: bool = False
    metadata: Metadata = {}
    process: str = ""
    number: int = 1
    """Which attempt of the rollout it is, from 1; a later one comes with the copy of a whole rollout."""


class AttemptEnd(msgspec.Struct, kw_only=True):
    """The final status of an attempt, written in the transaction of its last spans."""

    rollout_id: str
    attempt_id: str
    status: str
    """``succeeded`` or ``failed``."""
    end_ns: int
    metadata: Metadata = {}


class WriteBatch(msgspec.Struct, kw_only=True):
    """What the pipeline hands to a store in one call; written in one transaction: starts, spans, ends."""

    spans: list[SpanRecord] = []
    starts: list[RolloutStart] = []
    ends: list[AttemptEnd] = []
    project: str = "default"
    """Project of rollouts that have to be made because no one announced them."""
    rules: str = ""
    """Hash of the rule set by which the spans were redacted; empty when they were not, or nobody knows."""


class WriteResult(msgspec.Struct, frozen=True):
    """What a store did with a batch."""

    stored: int
    """Ended spans that are new."""
    duplicate: int = 0
    """Ended spans that were there already; nothing was changed."""
    rejected: list[str] = []
    """Ids of ended spans that the store refuses to take: they are no spans of OpenTelemetry's model."""
