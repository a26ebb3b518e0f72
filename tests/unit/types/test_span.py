"""The public span: built from what it is built from, and back to a record without loss."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link as OtelLink
from opentelemetry.trace import Status, StatusCode
from pydantic import ValidationError

import agentlightning.types
from agentlightning.types import (
    Event,
    Link,
    OtelResource,
    Span,
    SpanAttributeNames,
    SpanContext,
    SpanNames,
    TraceStatus,
    convert_timestamp,
    extract_extra_fields,
)
from agentlightning.types.record import EventRecord, LinkRecord, ResourceRecord, SpanRecord

SURROGATES = st.text(alphabet=st.characters(exclude_categories=()), max_size=20)
SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False) | SURROGATES
VALUES = SCALARS | st.none() | st.lists(st.integers()) | st.lists(SURROGATES) | st.dictionaries(SURROGATES, SCALARS)
ATTRIBUTES = st.dictionaries(SURROGATES, VALUES, max_size=5)
HEX = "0123456789abcdef"
TRACE_IDS, SPAN_IDS = st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16)
TIMES = st.integers(0, 2**63 - 1)
KEYS = st.text("abc-_*/@09", min_size=1, max_size=10)
HEADERS = st.dictionaries(KEYS, KEYS, max_size=3).map(lambda state: ",".join(f"{k}={v}" for k, v in state.items()))
RECORDS = st.builds(
    SpanRecord,
    rollout_id=st.text(),
    attempt_id=st.text(),
    counter=st.integers(0),
    trace_id=TRACE_IDS,
    span_id=SPAN_IDS,
    parent_id=st.none() | SPAN_IDS,
    name=SURROGATES,
    kind=st.sampled_from(["INTERNAL", "CLIENT"]),
    start_ns=TIMES,
    end_ns=st.none() | TIMES,
    status_code=st.sampled_from(["UNSET", "OK", "ERROR"]),
    status_description=st.none() | SURROGATES,
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(EventRecord, SURROGATES, TIMES, ATTRIBUTES), max_size=2),
    links=st.lists(st.builds(LinkRecord, TRACE_IDS, SPAN_IDS, ATTRIBUTES, HEADERS), max_size=2),
    resource=ATTRIBUTES.map(lambda attributes: ResourceRecord(attributes, "schema")),
    scope_name=st.text(),
    scope_version=st.text(),
    trace_state=HEADERS,
    process=st.text(),
)


def fields(record: SpanRecord) -> tuple[Any, ...]:
    """Return *record* in a form that compares by value; a resource record compares by identity."""
    return record, (record.resource.attributes, record.resource.schema_url)


def same(left: SpanRecord, right: SpanRecord) -> bool:
    """Tell whether two records say the same."""
    right.resource, resource = left.resource, right.resource
    return left == right and fields(left)[1] == (resource.attributes, resource.schema_url)


@given(RECORDS, st.integers(0))
def test_a_record_survives_the_public_model(record: SpanRecord, sequence_id: int) -> None:
    """A record that is read as a span, dumped, validated and written again is the same to the nanosecond."""
    span = Span.from_record(record, sequence_id)
    assert same(record, span.to_record())
    again = Span.model_validate(span.model_dump())
    assert again == span
    assert again.sequence_id == sequence_id
    assert same(record, again.to_record())


@given(RECORDS)
def test_seconds_are_the_nanoseconds_as_float(record: SpanRecord) -> None:
    """Outside, times are seconds since the epoch; an open span has no end."""
    span = Span.from_record(record, 1)
    assert span.start_time == record.start_ns / 1e9
    assert span.end_time == (None if record.end_ns is None else record.end_ns / 1e9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "\ud800", [math.nan], None])
def test_odd_values_survive_as_python_values(value: Any) -> None:
    """NaN, infinities and lone surrogates go through dump and validate unchanged, as value and as name."""
    span = Span.from_attributes(attributes={"v": value, "\udfff": 1}, name="n\ud800")
    again = Span.model_validate(span.model_dump())
    assert repr(again.attributes["v"]) == repr(value)
    assert again.attributes["\udfff"] == 1
    assert again.name == "n\ud800"
    assert repr(again.to_record().attributes["v"]) == repr(value)


def test_times_set_later_hold() -> None:
    """Where seconds and nanoseconds disagree, the seconds were set by the user and hold."""
    span = Span.from_attributes(attributes={})
    moved = span.model_copy(update={"start_time": 100.5, "end_time": None})
    record = moved.to_record()
    assert (record.start_ns, record.end_ns) == (100_500_000_000, None)


@pytest.mark.parametrize("start", [None, math.nan, math.inf])
def test_a_span_without_a_start_begins_at_its_end(start: float | None) -> None:
    """A start that is no moment does not cost the span."""
    span = Span.from_attributes(attributes={}, end_time=5.0).model_copy(update={"start_time": start})
    assert span.to_record().start_ns == 5_000_000_000


def test_from_attributes_fills_in_what_is_missing() -> None:
    """Only attributes are needed: ids are fresh and valid, the times are now."""
    before = time.time()
    first, second = Span.from_attributes(attributes={"a": 1}), Span.from_attributes(attributes={})
    assert (first.rollout_id, first.attempt_id, first.sequence_id) == ("", "", 0)
    assert first.name == "agentlightning.virtual"
    assert first.start_time is not None
    assert first.end_time is not None
    assert before - 1 < first.start_time <= first.end_time < before + 60
    assert (len(first.trace_id), len(first.span_id)) == (32, 16)
    assert int(first.trace_id, 16)
    assert int(first.span_id, 16)
    assert (first.trace_id, first.span_id) != (second.trace_id, second.span_id)
    assert (first.parent_id, first.parent, first.events, first.links) == (None, None, [], [])
    assert first.status.status_code == "OK"
    assert first.context == SpanContext(trace_id=first.trace_id, span_id=first.span_id, is_remote=False, trace_state={})


def test_from_attributes_takes_what_is_given() -> None:
    """Every argument reaches its field, times to the last digit."""
    resource = OtelResource(attributes={"service.name": "s"}, schema_url="")
    span = Span.from_attributes(
        attributes={"a": 1},
        rollout_id="ro",
        attempt_id="at",
        sequence_id=3,
        name="n",
        trace_id="0" * 31 + "1",
        span_id="0" * 15 + "2",
        parent_id="0" * 15 + "3",
        start_time=1700000000.1,
        end_time=1700000000.3,
        resource=resource,
    )
    assert (span.rollout_id, span.attempt_id, span.sequence_id, span.name) == ("ro", "at", 3, "n")
    assert (span.start_time, span.end_time) == (1700000000.1, 1700000000.3)
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (span.trace_id, span.parent_id)
    assert span.resource == resource


def test_from_opentelemetry_keeps_everything() -> None:
    """A span of the SDK becomes a model; the ids that are given hold over the stamps that it carries."""
    provider = TracerProvider(resource=Resource({"r": "x"}, "https://schema"), shutdown_on_exit=False)
    remote = trace.SpanContext(
        5, 6, is_remote=True, trace_flags=trace.TraceFlags(1), trace_state=trace.TraceState([("k", "v")])
    )
    tracer = provider.get_tracer("lib", "2")
    stamps = {"agentlightning.rollout_id": "other", "agentlightning.attempt_id": "other"}
    src = tracer.start_span(
        "n",
        trace.set_span_in_context(trace.NonRecordingSpan(remote)),
        attributes={"a": [1], **stamps},
        links=[OtelLink(remote)],
        start_time=1_000_000_001,
    )
    src.add_event("e", {"b": 1.5}, timestamp=3)
    src.set_status(Status(StatusCode.ERROR, "why"))
    src.end(end_time=2_000_000_000)

    span = Span.from_opentelemetry(src, "ro-1", "at-1", 4)  # type: ignore[arg-type] - an SDK span is readable

    assert (span.rollout_id, span.attempt_id, span.sequence_id) == ("ro-1", "at-1", 4)
    assert span.attributes == {"a": [1]}
    assert (span.start_time, span.end_time, span.start_time_ns) == (1.000000001, 2.0, 1_000_000_001)
    assert span.status == TraceStatus(status_code="ERROR", description="why")
    assert span.events == [Event(name="e", attributes={"b": 1.5}, timestamp=3e-9, timestamp_ns=3)]
    context = SpanContext(trace_id=f"{5:032x}", span_id=f"{6:016x}", is_remote=True, trace_state={"k": "v"})
    assert span.parent == context
    assert span.links == [Link(context=context, attributes=None)]
    assert span.context is not None
    assert span.context.trace_state == {"k": "v"}
    assert span.resource == OtelResource(attributes={"r": "x"}, schema_url="https://schema")
    assert (span.kind, span.scope_name, span.scope_version) == ("INTERNAL", "lib", "2")


def test_parts_are_made_from_their_counterparts() -> None:
    """Resource and event of the SDK become models by themselves too."""
    assert OtelResource.from_opentelemetry(Resource({"a": 1})).attributes == {"a": 1}
    assert TraceStatus.from_opentelemetry(Status(StatusCode.OK)).status_code == "OK"


def test_further_fields_are_kept_by_the_model() -> None:
    """A field that is not ours stays on the span through dump, validate and pickle."""
    span = Span.model_validate({**Span.from_attributes(attributes={}).model_dump(), "mine": [1]})
    assert span.model_dump()["mine"] == [1]
    assert pickle.loads(pickle.dumps(span)) == span


@pytest.mark.parametrize("change", [{"name": 3}, {"attributes": {1: 2}}, {"attributes": []}, {"trace_id": None}])
def test_wrong_types_are_refused(change: dict[str, Any]) -> None:
    """Text is text and attributes have names; pydantic says which field is wrong."""
    with pytest.raises(ValidationError, match=next(iter(change))):
        Span.model_validate({**Span.from_attributes(attributes={}).model_dump(), **change})


def test_a_span_can_be_described_and_read_as_json() -> None:
    """The models have a JSON schema, and JSON without odd values is read and written by pydantic itself."""
    assert "start_time" in Span.model_json_schema()["properties"]
    span = Span.from_attributes(attributes={"a": [1, 2], "b": "x"})
    assert Span.model_validate_json(span.model_dump_json()) == span


def test_a_record_shares_nothing_with_its_span() -> None:
    """Changing a record afterwards does not change the span."""
    span = Span.from_attributes(attributes={"ids": [1, 2]})
    span.to_record().attributes["ids"].append(3)
    assert span.attributes["ids"] == [1, 2]


def test_timestamps_become_seconds() -> None:
    """Nanoseconds become seconds, None stays None."""
    assert convert_timestamp(1_500_000_000) == 1.5
    assert convert_timestamp(None) is None


class _Source:
    own = 1

    def __init__(self) -> None:
        self._flags = (1, 2)
        self.name = "n"
        self.extra = {"deep": object}
        self.__secret = 1
        self._own = 2


def test_extra_fields_are_what_is_not_known() -> None:
    """Fields count without their underscore; known ones, the class's own and doubly hidden ones are left out."""
    extra = extract_extra_fields(_Source(), ["name"])
    assert extra == {"flags": [1, 2], "extra": {"deep": str(object)}, "Source__secret": 1}


def test_names_are_those_of_the_api() -> None:
    """The enums of names are reachable from the module that the documentation names."""
    from agentlightning.types import tracer

    assert tracer.SpanNames is SpanNames
    assert tracer.SpanAttributeNames is SpanAttributeNames
    assert SpanNames.REWARD == "agentlightning.reward"


def test_every_public_name_resolves() -> None:
    """Each name of the package is found, and is the one of its module; an unknown one is an AttributeError."""
    for name in agentlightning.types.__all__:
        assert getattr(agentlightning.types, name) is getattr(agentlightning.types, name)
    assert set(agentlightning.types.__all__) <= set(dir(agentlightning.types))
    with pytest.raises(AttributeError, match="Nothing"):
        _ = agentlightning.types.Nothing


def test_records_load_without_pydantic() -> None:
    """What capture needs loads neither pydantic nor OpenTelemetry; the public models load no SDK."""
    code = (
        "import sys\n"
        "import agentlightning.types.record, agentlightning.types.query, agentlightning.types.convert\n"
        "assert not {'pydantic', 'opentelemetry'} & set(sys.modules)\n"
        "from agentlightning.types import Span, Rollout, LLM\n"
        "assert 'opentelemetry.sdk' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
