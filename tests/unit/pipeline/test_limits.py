"""Limits: nothing is cut below its limit, arrays never, every cut is valid UTF-8 and marked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from agentlightning import semconv, settings
from agentlightning.pipeline.limits import cut_huge, limit, limit_attributes
from agentlightning.pipeline.prepare import Preparer
from agentlightning.types.record import EventRecord, LinkRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.types.record import SpanRecord

_ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=120)
_PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.one_of(_ANY_TEXT, st.integers(-(2**63), 2**63), st.floats(), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_ANY_TEXT, inner, max_size=4)),
    max_leaves=12,
)


def ended(**attributes: Any) -> ReadableSpan:
    """Return a span of the SDK."""
    span = TracerProvider().get_tracer("test").start_span("work", attributes=attributes)
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


def prepared(span: ReadableSpan) -> tuple[SpanRecord, int]:
    """Return the record of *span*, as the worker makes it, and the bytes of its texts."""
    preparer = Preparer()
    record = preparer.convert(span, 1)
    assert preparer.redact([record]) == [True]
    return record, preparer.finish(record)


@given(text=_ANY_TEXT, max_bytes=st.integers(16, 300))
def test_a_text_is_cut_only_beyond_its_limit_and_at_a_character(text: str, max_bytes: int) -> None:
    """What is left is a beginning of the text, valid, and no shorter than one character below the limit."""
    attributes: dict[str, Any] = {"x": text}
    cut: list[str] = []
    limit_attributes(attributes, max_bytes, cut)
    whole = text.encode("utf-8", "backslashreplace")
    kept = attributes["x"].encode()
    assert whole.startswith(kept)
    assert len(kept) <= max_bytes
    if len(whole) <= max_bytes:
        assert kept == whole
    else:
        assert len(kept) > max_bytes - 4
    assert cut == ([] if attributes["x"] == text else ["x"])


@given(st.dictionaries(_ANY_TEXT, _PLAIN, max_size=6))
def test_what_is_left_can_be_written(attributes: dict[str, Any]) -> None:
    """Lone surrogates in names, texts and nested values are gone; every encoder of ours takes the rest."""
    limit_attributes(attributes, 100, [])
    assert set(msgspec.msgpack.decode(msgspec.msgpack.encode(attributes))) == set(attributes)
    msgspec.json.encode(attributes)


@given(st.lists(st.one_of(st.integers(), st.floats(), st.none()), max_size=50), st.lists(st.integers(), max_size=5))
def test_arrays_of_numbers_are_never_cut(numbers: list[Any], more: list[int]) -> None:
    """Token ids and log-probabilities keep their length and their identity, whatever the limit."""
    long, nested = numbers * 100, {"ids": more * 100}
    attributes: dict[str, Any] = {"logprobs.content": long, "choices": nested}
    cut: list[str] = []
    limit_attributes(attributes, 16, cut)
    assert attributes["logprobs.content"] is long
    assert attributes["choices"] is nested
    assert cut == []


def test_every_cut_is_marked(make_record: Callable[..., SpanRecord]) -> None:
    """Attributes, lists, nested values, events and links: the mark names each key that was changed, once."""
    long = "x" * 500
    record = make_record(
        name="n" * 70_000,
        status_description="d" * 70_000,
        attributes={"a": long, "list": ["short", long], "deep": {"b": [long]}, "fine": "y", "odd": "\ud800"},
        events=[EventRecord("e" * 70_000, 1, {"exception.message": long, "a": long})],
        links=[LinkRecord("a", "b", {"note": long})],
    )
    limit(record, 300)
    assert record.attributes[semconv.TRUNCATED] == ["a", "deep", "exception.message", "list", "note", "odd"]
    assert record.attributes["list"] == ["short", "x" * 300]
    assert record.attributes["odd"] == "\\ud800"
    assert [len(record.name), len(record.status_description or ""), len(record.events[0].name)] == [65_536] * 3


def test_a_message_of_200_mb_is_cut_in_time() -> None:
    """It keeps its first MiB, marked; nothing looks at the rest."""
    span = ended(**{"input.value": "é" * (100 * 2**20), "other": "kept"})
    began = time.thread_time()
    record, size = prepared(span)
    assert time.thread_time() - began < 2
    assert len(record.attributes["input.value"].encode()) == 2**20
    assert record.attributes["other"] == "kept"
    assert record.attributes[semconv.TRUNCATED] == ["input.value"]
    assert size < 2 * 2**20


def test_a_credential_that_a_cut_halves_is_gone() -> None:
    """Redaction comes before the limit: no part of the value is left where the text ends."""
    settings.configure(max_value_bytes=256)
    secret = "planted" * 30
    for start in range(200, 260, 3):
        text = "." * start + '{"password": "' + secret + '"}'
        record, _ = prepared(ended(**{"input.value": text, "far": "." * (4 * 256 - 50 + start % 30) + text}))
        assert "planted" not in record.attributes["input.value"]
        assert "planted" not in record.attributes["far"]


@pytest.mark.parametrize("max_bytes", [256, 2**20])
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("ab\u00e9\u65e5", min_size=0, max_size=400))
def test_short_values_are_left_alone(max_bytes: int, text: str) -> None:
    """A text within its limit is the same object afterwards."""
    attributes: dict[str, Any] = {"x": text}
    cut: list[str] = []
    limit_attributes(attributes, max_bytes, cut)
    assert (attributes["x"] is text) == (len(text.encode()) <= max_bytes)


def test_what_is_far_too_long_is_cut_before_anything_looks_at_it(make_record: Callable[..., SpanRecord]) -> None:
    """Texts, texts in lists, name and status keep at most four times their limit before redaction; numbers stay."""
    record = make_record(
        name="n" * 10**6,
        status_description="s" * 10**6,
        attributes={"a": "x" * 100, "b": ["y" * 100, 1, "z"], "c": list(range(1000)), "d": ["short"]},
    )
    cut_huge(record, 10)
    assert record.attributes.pop(semconv.TRUNCATED) == ["a", "b"]
    assert record.attributes == {"a": "x" * 40, "b": ["y" * 40, 1, "z"], "c": list(range(1000)), "d": ["short"]}
    assert (len(record.name), len(record.status_description or "")) == (262_144, 262_144)
