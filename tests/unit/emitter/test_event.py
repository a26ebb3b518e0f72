"""Types of events, their registry, and their form as bytes."""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from agentlightning import semconv
from agentlightning.emitter import (
    CustomEvent,
    EventDataError,
    EventFactory,
    ExceptionEvent,
    MessageEvent,
    ObjectEvent,
    RewardEvent,
    SerializationEngine,
    create_event,
    get_supported_types,
    register_event_type,
)
from agentlightning.emitter.attribute import MAX_ATTRIBUTES, event_attributes, event_data
from agentlightning.emitter.event import event_factory
from agentlightning.semconv import ExceptionAttributes, SpanNames

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILTIN = ["exception", "message", "object", "reward"]


@pytest.fixture
def factory() -> Iterator[EventFactory]:
    """Give the registry of the process, and take away afterwards what the test registered."""
    types: dict[str, Any] = vars(event_factory)["_types"]
    before = dict(types)
    yield event_factory
    types.clear()
    types.update(before)


class Retry(CustomEvent):
    """An event of the tests."""

    event_type = "tool.retry"

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(attributes=data)


class RetryData(BaseModel):
    """Its schema."""

    tool: str
    attempt: int = Field(ge=1)


class RetryTyped(TypedDict):
    """Its schema in another form."""

    tool: str


def same(one: object, other: object) -> bool:
    """Tell whether two values are equal, in type too, and NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type, call-overload]
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, [*one, *one.values()], [*other, *other.values()]))  # type: ignore[call-overload, union-attr]
    if isinstance(one, (set, frozenset)):
        return {repr(item) for item in one} == {repr(item) for item in other}  # type: ignore[union-attr]
    return one == other


_ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
_KEYS = st.one_of(_ANY_TEXT, st.integers(), st.booleans(), st.none(), st.binary(max_size=5), st.just("$"))
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), _ANY_TEXT, st.binary(max_size=20), st.dates(), st.datetimes(),
    st.datetimes(timezones=st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))), st.times(),
    st.timedeltas(), st.uuids(), st.decimals(allow_nan=False), st.binary(max_size=8).map(bytearray),
)  # fmt: skip
_HASHABLE = st.one_of(st.integers(), st.text(max_size=5), st.binary(max_size=5), st.tuples(st.integers(), st.text()))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=4), st.tuples(inner, inner),
        st.sets(_HASHABLE, max_size=3), st.frozensets(_HASHABLE, max_size=3),
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=10), _VALUES, max_size=5))
def test_events_come_back_from_bytes_as_they_were(attributes: dict[str, Any]) -> None:
    """Serialising and deserialising gives the same event, whatever plain data it holds, and the bytes are ASCII."""
    engine = SerializationEngine()
    data = engine.serialize(CustomEvent("test.event", attributes))
    event = engine.deserialize(data)
    assert data.isascii()
    assert event.event_type == "test.event"
    assert same(event.attributes, attributes)


@given(st.dictionaries(st.text(max_size=10).filter(lambda key: not key.startswith("agentlightning.")), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
              st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=10), max_size=5))  # fmt: skip
def test_json_data_come_back_from_attributes(data: dict[str, Any]) -> None:
    """What JSON can hold is read back from the attributes of a span as it was, and only allowed values are written."""
    attributes = event_attributes(data)
    assert event_data(attributes) == data
    for value in attributes.values():
        items = value if isinstance(value, list) else [value]
        assert {type(item) for item in items} in [set(), {str}, {bool}, {int}, {float}]


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        date(2026, 1, 2), time(1, 2, 3, 4), timedelta(-1, 2, 3), UUID(int=5),
        Decimal("1.50"), float("nan"), float("-inf"),
        -0.0, "\ud83d\ude00", "\udc80", b"\xff\x00", (1, "a"), {1: 2, "1": 3}, {"$": "bytes"}, frozenset({1}), 2**200,
    ],
    ids=repr,
)  # fmt: skip
def test_every_documented_value_survives(value: object) -> None:
    """Each kind of value that the page on events lists comes back with its type."""
    engine = SerializationEngine()
    event = engine.deserialize(engine.serialize(CustomEvent("x", {"value": [value]})))
    assert same(event.attributes, {"value": [value]})


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [object(), _cycle(), _deep(5000), 1j, lambda: None], ids=["object", "cycle", "deep", "complex", "function"]
)
def test_what_has_no_exact_form_is_refused(value: object) -> None:
    """A value that could not come back as it was is an error and not silently another value."""
    with pytest.raises(EventDataError):
        CustomEvent("x", {"value": value}).serialize()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[]", b"{}", b'{"type":1,"attributes":{}}', b'{"type":"x","attributes":[]}', b"[" * 100_000,
        b'{"type":"x","attributes":{"a":{"$":"pickle","v":"gASV"}}}',
        b'{"type":"x","attributes":{"a":{"$":"bytes","v":"%"}}}',
        b'{"type":"x","attributes":{"a":{"$":"datetime","v":7}}}',
        b'{"type":"x","attributes":{"a":{"$":"dict","v":[1]}}}',
        b'{"type":"x","attributes":{"a":{"$":"set","v":[[1]]}}}', b'{"type":"x","version":"1","attributes":{}}',
        b'{"type":"x","attributes":{"a":{"$":"decimal","v":"x"}}}',
        b'{"type":"x","attributes":{"a":{"$":"uuid","v":5}}}',
        b'{"type":"x","attributes":{"a":{"$":"timedelta","v":[1e99]}}}', b'{"type":"message","attributes":{}}',
    ],
)  # fmt: skip
def test_bytes_that_are_no_event_are_refused(data: bytes) -> None:
    """Whatever the bytes are, reading them gives an event or one kind of error."""
    with pytest.raises(EventDataError):
        SerializationEngine().deserialize(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_event_or_refused(data: bytes) -> None:
    """No bytes make the engine raise anything but its own error."""
    with contextlib.suppress(EventDataError):
        SerializationEngine().deserialize(b'{"type":"x","attributes":' + data + b"}")


def test_builtin_kinds_are_in_the_registry() -> None:
    """The four kinds of the emitters are made by name, like any other type."""
    assert set(BUILTIN) <= set(get_supported_types())
    assert isinstance(create_event("message", {"message": "hi"}), MessageEvent)
    assert isinstance(create_event("reward", {"reward": 1}), RewardEvent)
    assert isinstance(create_event("exception", {"exception": KeyError("a")}), ExceptionEvent)
    assert isinstance(create_event("object", {"object": [1]}), ObjectEvent)


def test_builtin_kinds_have_what_the_diagrams_name() -> None:
    """The typed events have the attributes and methods of their class diagrams, and those work."""
    message, reward = MessageEvent("hi"), RewardEvent({"a": 1, "b": 2}, primary_key="b")
    assert (message.message, message.validation(), message.span_name()) == ("hi", True, SpanNames.MESSAGE.value)
    assert not MessageEvent(5).validation()  # type: ignore[arg-type]
    assert (reward.reward, reward.data) == (2.0, {"type": "reward", "value": 2.0})
    try:
        raise KeyError("secret")
    except KeyError as error:
        exception = ExceptionEvent(error)
    assert "test_builtin_kinds_have" in exception.extract_stacktrace()
    assert exception.attributes[ExceptionAttributes.EXCEPTION_TYPE.value] == "KeyError"
    thing = ObjectEvent({"a": float("nan")})
    assert (thing.serialize_json(), thing.validation()) == ('{"a": "NaN"}', True)
    for kind in (MessageEvent, RewardEvent, ExceptionEvent, ObjectEvent):
        assert callable(vars(kind)[f"emit_{kind.event_type}"].__func__)


@pytest.mark.parametrize(
    "event",
    [
        MessageEvent("a\udc80"),
        RewardEvent(0.5),
        RewardEvent({"a": 1.0, "b": 2.0}, primary_key="b"),
        ExceptionEvent(ValueError("x")),
        ObjectEvent({"a": [1]}),
    ],
    ids=repr,
)
def test_builtin_events_come_back_from_bytes(event: CustomEvent) -> None:
    """A typed event of ours is deserialised as its own class with equal content."""
    engine = SerializationEngine()
    back = engine.deserialize(engine.serialize(event))
    assert type(back) is type(event)
    assert back == event


def test_a_type_is_registered_once(factory: EventFactory) -> None:
    """The same registration again changes nothing, another one of the same name is refused unless it is asked for."""
    register_event_type("tool.retry", Retry)
    register_event_type("tool.retry", Retry)
    with pytest.raises(ValueError, match="exists"):
        register_event_type("tool.retry", lambda data: CustomEvent("tool.retry", data))
    register_event_type("tool.retry", None, replace=True)
    assert type(factory.create_event("tool.retry", {"a": 1})) is CustomEvent
    with pytest.raises(ValueError, match="exists"):
        register_event_type("message", Retry, replace=True)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201, "agentlightning.mine", "\x1b[31m"])
def test_names_that_cannot_be_shown_are_refused(factory: EventFactory, name: str) -> None:
    """A type is named by printable text of bounded length, outside our own names."""
    with pytest.raises(ValueError, match="named by"):
        factory.register_event_type(name)


def test_wrong_registrations_are_told_at_once(factory: EventFactory) -> None:
    """What cannot work later is an error when it is registered."""
    with pytest.raises(TypeError, match="cannot be called"):
        factory.register_event_type("x", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be called"):
        factory.register_event_type("x", handler=5)  # type: ignore[arg-type]
    assert "x" not in factory.get_supported_types()
    with pytest.raises(ValueError, match="version"):
        factory.register_event_type("y", version=0)
    with pytest.raises(TypeError, match="whole number"):
        factory.register_event_type("y", version=1.5)  # type: ignore[arg-type]
    for schema in (5, {"type": "object"}):
        with pytest.raises(TypeError, match="a schema is"):
            factory.register_event_type("y", schema=schema)  # type: ignore[arg-type]
    assert "y" not in factory.get_supported_types()


def test_an_unknown_type_is_named(factory: EventFactory) -> None:
    """Creating an event of no registered type says which there are."""
    for name in ("nope", ["nope"], None):
        with pytest.raises(ValueError, match=r"no event type .*message"):
            factory.create_event(name)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no event type"):
            factory.json_schema(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [{}, {"message": 5, "x": 1}, [1, 2], 5], ids=repr)
def test_a_factory_that_makes_no_event_is_a_value_error(factory: EventFactory, data: Any) -> None:
    """Whatever a factory does with data that it cannot use, it is one documented error, which names the type."""

    def picky(data: dict[str, Any]) -> Any:
        return MessageEvent(data["message"]) if data.get("message") != 5 else 5

    factory.register_event_type("test.picky", picky)
    with pytest.raises(EventDataError, match=r"test\.picky"):
        factory.create_event("test.picky", data)


@pytest.mark.parametrize("thing", [None, 5, ["a"]], ids=repr)
def test_what_is_no_event_fits_no_schema_and_is_not_read(thing: Any) -> None:
    """Checking never raises, and reading raises the one documented error."""
    assert not SerializationEngine().validate_schema(thing)
    with pytest.raises(EventDataError, match="is bytes"):
        SerializationEngine().deserialize(thing)


@pytest.mark.parametrize(
    ("schema", "attributes", "fits"),
    [
        (RetryData, {"tool": "a", "attempt": 1}, True),
        (RetryData, {"tool": "a", "attempt": 0}, False),
        (RetryData, {}, False),
        (RetryTyped, {"tool": "a"}, True),
        (RetryTyped, {"tool": 5}, False),
        (None, {"anything": object()}, True),
    ],
)
def test_schema_decides(factory: EventFactory, schema: type | None, attributes: dict[str, Any], *, fits: bool) -> None:
    """An event is valid exactly when its attributes fit the schema of its type; another version does not fit."""
    factory.register_event_type("test.schema", schema=schema, version=2)
    event = factory.create_event("test.schema", attributes)
    engine = SerializationEngine(factory)
    assert (event.version, event.validate(), engine.validate_schema(event)) == (2, fits, fits)
    event.version = 1
    assert event.validate() is (schema is None)


def test_schema_of_a_class_holds(factory: EventFactory) -> None:
    """A schema that an event class names is used, registered or not."""

    class Strict(Retry):
        schema = RetryData

    assert Strict({"tool": "a", "attempt": 1}).validate()
    assert not Strict({"tool": "a"}).validate()
    factory.register_event_type("tool.retry", Strict)
    found = factory.json_schema("tool.retry")
    assert found is not None
    assert (found["version"], found["properties"]["attempt"]["minimum"]) == (1, 1)
    assert factory.json_schema("message") is None


def test_version_travels_with_the_bytes(factory: EventFactory) -> None:
    """An event of a version that is not registered here is read as plain data and keeps its version."""
    factory.register_event_type("tool.retry", Retry, version=3)
    old = Retry({"a": 1})
    back = SerializationEngine().deserialize(old.serialize())
    assert (type(back), back.version, back.attributes) == (CustomEvent, 1, {"a": 1})


def test_attributes_of_one_event_are_bounded() -> None:
    """More attributes than a span may have are left out, and their number is noted."""
    attributes = event_attributes({str(number): number for number in range(MAX_ATTRIBUTES + 7)})
    assert len(attributes) == MAX_ATTRIBUTES + 1
    assert attributes[semconv.DROPPED_ATTRIBUTES] == 7


def test_types_are_registered_from_many_threads() -> None:
    """Registrations at the same time all take effect, and one name is given once."""
    own = EventFactory()
    refused: list[int] = []

    def work(number: int) -> None:
        own.register_event_type(f"type.{number}")
        try:
            own.register_event_type("same", lambda data, number=number: CustomEvent("same", {"number": number, **data}))
        except ValueError:
            refused.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(own.get_supported_types()) == 17
    assert len(refused) == 15


def test_representation_tells_no_content() -> None:
    """What an event prints as holds its type and size only."""
    assert repr(Retry({"password": "hunter2"})) == "<Retry 'tool.retry' with 1 attributes>"
    assert json.loads(Retry({"a": 1}).serialize())["type"] == "tool.retry"
