"""Rows of the database as public models."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agentlightning._internal.clock import to_seconds
from agentlightning.errors import StoreCorruptError
from agentlightning.store.pack import from_json, load_attributes
from agentlightning.types.core import Attempt, AttemptedRollout, Rollout, RolloutConfig
from agentlightning.types.query import SpanFacts, SpanRow
from agentlightning.types.record import EventRecord, LinkRecord, ResourceRecord, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.store.sql.connector import Row
    from agentlightning.types.record import JsonObject

T = TypeVar("T")

_decode_facts = msgspec.json.Decoder(SpanFacts).decode
_decode_events = msgspec.json.Decoder(list[EventRecord]).decode
_decode_links = msgspec.json.Decoder(list[LinkRecord]).decode


def _whole(name: str) -> Callable[[Callable[[Row], T]], Callable[[Row], T]]:
    """Make a function that builds something of a row say which row is damaged when it cannot.

    Args:
        name: What the row is, with the numbers of the columns that tell which.
    """

    def decorate(build: Callable[[Row], T]) -> Callable[[Row], T]:
        """Wrap a function that builds a model of a row."""

        @functools.wraps(build)
        def built(row: Row) -> T:
            """Build the model; StoreCorruptError names the row that is none."""
            try:
                return build(row)
            except (ValueError, TypeError, msgspec.MsgspecError) as error:
                msg = f"{name.format(*row)} is damaged in the store; 'agl store verify' names all that is"
                raise StoreCorruptError(msg) from error

        return built

    return decorate


@_whole("rollout {0}")
def to_rollout(row: Row) -> Rollout:
    """Build a rollout from a row of the queries ``rollout``, ``newest_rollouts`` and their like."""
    return Rollout(**_rollout_fields(row))


def _rollout_fields(row: Row) -> JsonObject:
    rollout_id, _project, status, mode, resources_id, start_ns, end_ns, config, metadata, task = row
    return {
        "rollout_id": rollout_id,
        "input": from_json(task),
        "start_time": to_seconds(start_ns),
        "end_time": to_seconds(end_ns),
        "mode": mode,
        "resources_id": resources_id,
        "status": status,
        "config": RolloutConfig.model_validate(from_json(config)),
        "metadata": from_json(metadata),
    }


@_whole("attempt {0} of rollout {1}")
def to_attempt(row: Row) -> Attempt:
    """Build an attempt from a row of the query ``attempts``."""
    attempt_id, rollout_id, number, status, start_ns, end_ns, heartbeat_ns, worker_id, metadata = row
    return Attempt(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        sequence_id=number,
        start_time=start_ns / 1e9,
        end_time=to_seconds(end_ns),
        status=status,
        worker_id=worker_id,
        last_heartbeat_time=to_seconds(heartbeat_ns),
        metadata=from_json(metadata),
    )


def to_attempted_rollout(row: Row, attempt: Attempt) -> AttemptedRollout:
    """Build a rollout together with its attempt."""
    return AttemptedRollout(**_rollout_fields(row), attempt=attempt)


@_whole("span {1} of rollout {3}")
def to_span_row(row: Row) -> SpanRow:
    """Build the shape of a span from a row of the query ``span_rows``."""
    trace, span, parent, rollout, attempt, sequence, name, start, end, code, description, process, facts = row
    return SpanRow(
        trace_id=trace,
        span_id=span,
        parent_id=parent,
        rollout_id=rollout,
        attempt_id=attempt,
        sequence_id=sequence,
        name=name,
        start_ns=start,
        end_ns=end,
        status_code=code,
        status_description=description,
        process=process,
        facts=_decode_facts(facts),
    )


@_whole("span {1} of rollout {3}")
def to_span_record(row: Row) -> tuple[SpanRecord, int]:
    """Build record and sequence number from a row of the query ``span_records``."""
    (
        trace_id, span_id, parent_id, rollout_id, attempt_id, sequence_id, name, kind, start_ns,
        end_ns, status_code, status_description, trace_state, links, events, attributes, packed,
        process, scope_name, scope_version, schema_url, resource,
    ) = row  # fmt: skip
    record = SpanRecord(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        counter=sequence_id,
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent_id,
        name=name,
        kind=kind,
        start_ns=start_ns,
        end_ns=end_ns,
        status_code=status_code,
        status_description=status_description,
        attributes=load_attributes(attributes, packed),
        events=_decode_events(events),
        links=_decode_links(links),
        resource=ResourceRecord(from_json(resource), schema_url),
        scope_name=scope_name,
        scope_version=scope_version,
        trace_state=trace_state,
        process=process,
    )
    return record, sequence_id
