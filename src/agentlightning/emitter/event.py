"""Typed events: what a custom event is, and the registry of their types.

A type has a name, a factory, and perhaps a schema with a version and a handler. The four built-in kinds are in the same
registry. Importing this loads neither OpenTelemetry nor pydantic; a schema brings its pydantic along.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from agentlightning._internal.guard import guard
from agentlightning.emitter.handler import check_handler, event_handlers
from agentlightning.emitter.serialization import EventDataError, encode_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Status

    from agentlightning.emitter.handler import EventHandler
    from agentlightning.emitter.utils import EmittedValue

MAX_TYPE_CHARS = 200
"""Longest name of a type."""


class EventLike(Protocol):
    """What an object of the program's needs to be emitted as an event."""

    @property
    def event_type(self) -> str:
        """Name of the type."""
        ...

    @property
    def attributes(self) -> Mapping[str, object]:
        """What there is to say."""
        ...

    def validate(self) -> bool:
        """Tell whether it may be recorded."""
        ...

    def serialize(self) -> bytes:
        """Return it as bytes."""
        ...


class CustomEvent:  # noqa: PLW1641 - not hashable, since attributes may change
    """One thing that happened at one moment: a type and attributes. Subclass it, or use it as it is.

    A subclass may set ``event_type``, ``version``, ``schema`` and ``keep``, and override ``validate``.
    """

    event_type: str = ""
    """Name of the type, such as ``tool.retry``; it is the name of the span."""
    version: int = 1
    """Version of the schema that the attributes follow."""
    schema: ClassVar[type | None] = None
    """What the attributes have to be: a pydantic model, or any type that pydantic validates (TypedDict, dataclass)."""
    keep: bool | None = None
    """False leaves the event out (counted ``filtered``), True keeps it whatever the sample rate is."""
    attributes: dict[str, Any]
    """What there is to say; any values, but only text, numbers, truth values and lists of these can be filtered by."""

    def __init__(self, event_type: str | None = None, attributes: Mapping[str, object] | None = None) -> None:
        """Make an event of *event_type* (None: that of the class) with a copy of *attributes*."""
        if event_type is not None:
            self.event_type = event_type
        self.attributes = dict(attributes or {})

    def __eq__(self, other: object) -> bool:
        """Events are equal when type, version and attributes are."""
        if not isinstance(other, CustomEvent):
            return NotImplemented
        mine = (self.event_type, self.version, self.attributes)
        return mine == (other.event_type, other.version, other.attributes)

    def __repr__(self) -> str:
        """Name class and type, not the content, which may be confidential."""
        return f"<{type(self).__name__} {self.event_type!r} with {len(self.attributes)} attributes>"

    def validate(self) -> bool:
        """Tell whether this may be recorded: a usable type, text as keys, and the schema of the type. Never raises."""
        with guard("event.validate"):
            return is_type_name(self.event_type) and _has_text_keys(self.attributes) and event_factory.fits_schema(self)
        return False

    def validation(self) -> bool:
        """Do what ``validate`` does."""
        return self.validate()

    def serialize(self) -> bytes:
        """Return the event as bytes that ``SerializationEngine.deserialize`` reads.

        Raises:
            EventDataError: An attribute has no exact form, contains itself, or is nested deeper than 100.
        """
        return encode_event(self.event_type, self.version, self.attributes)

    def span_name(self) -> str:
        """Return the name of the span that stands for the event."""
        return self.event_type

    def span_attributes(self) -> dict[str, EmittedValue] | None:
        """Return the attributes of that span; None to have them made of ``attributes``."""
        return None

    def span_status(self) -> Status | None:
        """Return the status of that span, None for an unset one."""
        return None


class EventMaker(Protocol):
    """Makes an event of one type from its data: a function, or a class that takes the data as its one argument."""

    def __call__(self, data: dict[str, object], /) -> CustomEvent:
        """Return the event; raise ``ValueError`` or ``TypeError`` for data that make none."""
        ...


class _Type:
    """A registered type."""

    __slots__ = ("factory", "fits", "given", "is_builtin", "schema", "version")

    def __init__(
        self, name: str, given: EventMaker | None, schema: type | None, version: int, *, is_builtin: bool
    ) -> None:
        self.given = given
        self.factory = given or _plain_event(name, version)
        self.schema = schema
        self.version = version
        self.is_builtin = is_builtin
        self.fits = None if schema is None else _validator(schema)


class EventFactory:
    """The registry of event types. Thread-safe."""

    def __init__(self) -> None:
        """Begin without any type."""
        self._types: dict[str, _Type] = {}
        self._lock = threading.Lock()

    def register_event_type(
        self,
        name: str,
        factory: EventMaker | None = None,
        *,
        schema: type | None = None,
        version: int = 1,
        handler: EventHandler | None = None,
        replace: bool = False,
    ) -> None:
        """Make events of type *name* known.

        Args:
            name: 1 to 200 printable characters; ``agentlightning.`` is ours.
            factory: Makes the event of its data; a class takes them as its one argument. None for a ``CustomEvent``.
            schema: What the attributes have to be: a pydantic model, or any type that pydantic validates.
            version: Version of the schema, from 1; events of another version do not fit it.
            handler: Called with each event of this type that is recorded; see ``add_event_handler``.
            replace: Allow that a custom type of this name exists.

        Raises:
            ValueError: The name cannot be used, or the type exists and is another one.
            TypeError: *factory* or *handler* cannot be called, *version* is no whole number, or pydantic cannot make a
                validator of *schema*.
        """
        if handler is not None:
            check_handler(handler)
        self._register(name, factory, schema, version, replace=replace)
        if handler is not None:
            event_handlers.add(name, handler)

    def _register(
        self, name: str, factory: EventMaker | None, schema: type | None, version: int, *, replace: bool = False
    ) -> None:
        if not is_type_name(name) or name.startswith("agentlightning."):
            msg = (
                f"an event type is named by 1 to {MAX_TYPE_CHARS} printable characters that do not begin with "
                f"'agentlightning.', not {str(name)[:50]!r}"
            )
            raise ValueError(msg)
        if type(version) is not int:
            msg = f"the version of a schema is a whole number, not {type(version).__qualname__}"
            raise TypeError(msg)
        if version < 1:
            msg = f"the version of a schema is 1 or more, not {version}"
            raise ValueError(msg)
        if factory is not None and not callable(factory):
            msg = f"a factory is called with the data of an event; {type(factory).__qualname__} cannot be called"
            raise TypeError(msg)
        if schema is None:
            schema = getattr(factory, "schema", None)
        new = _Type(name, factory, schema, version, is_builtin=False)
        with self._lock:
            old = self._types.get(name)
            same = old is not None and (old.given, old.schema, old.version) == (factory, schema, version)
            if old is not None and not same and (old.is_builtin or not replace):
                msg = f"the event type {name!r} exists; replace=True replaces a custom one"
                raise ValueError(msg)
            self._types[name] = new

    def add_builtin(self, name: str, factory: EventMaker) -> None:
        """Register a kind of our own."""
        self._types[name] = _Type(name, factory, None, 1, is_builtin=True)

    def create_event(self, type: str, data: Mapping[str, object] | None = None) -> CustomEvent:  # noqa: A002 - the seed's name
        """Return an event of a registered type made of *data*.

        Raises:
            ValueError: No such type is registered, or its factory makes no event of the data.
        """
        known = self._known(type)
        try:
            made = dict(data or {})
        except (TypeError, ValueError) as error:
            msg = f"an event of type {type!r} is made of a mapping"
            raise EventDataError(msg) from error
        return _make(type, known, made)

    def _known(self, name: str) -> _Type:
        known = self._types.get(name) if isinstance(cast("object", name), str) else None
        if known is None:
            msg = f"no event type {str(name)[:50]!r} is registered; there are {', '.join(self.get_supported_types())}"
            raise ValueError(msg)
        return known

    def restore(self, event_type: str, data: dict[str, object], version: int) -> CustomEvent:
        """Return the event that was recorded or serialised as *data*; a plain one where its type is not known here.

        Raises:
            EventDataError: The factory of its type refuses the data.
        """
        known = self._types.get(event_type)
        if known is None or known.version != version:
            event = CustomEvent(event_type, data)
        else:
            event = _make(event_type, known, dict(data))
        event.version = version
        return event

    def get_supported_types(self) -> list[str]:
        """Return the names of all registered types, sorted."""
        return sorted(self._types)

    def json_schema(self, type: str) -> dict[str, Any] | None:  # noqa: A002 - as create_event
        """Return the JSON Schema of a registered type, with its ``version``; None where it has no schema.

        Raises:
            ValueError: No such type is registered.
        """
        known = self._known(type)
        if known.schema is None:
            return None
        from pydantic import TypeAdapter  # noqa: PLC0415 - loaded with the schema already

        return {**TypeAdapter[object](known.schema).json_schema(), "version": known.version}

    def fits_schema(self, event: CustomEvent) -> bool:
        """Tell whether *event* fits the schema of its type; True where there is none. Never raises."""
        try:
            known = self._types.get(event.event_type)
            fits = None if known is None else known.fits
            if known is not None and fits is not None:
                if known.version != event.version:
                    return False
            elif event.schema is None:
                return True
            else:
                fits = _validator(event.schema)
            fits(event.attributes)
        except Exception:  # noqa: BLE001 - ValidationError of pydantic, which is not loaded here, and code of the user's
            return False
        return True


def _make(name: str, known: _Type, data: dict[str, object]) -> CustomEvent:
    """Return the event that the factory of a type makes of *data*.

    Raises:
        EventDataError: It makes none.
    """
    try:
        made = cast("object", known.factory(data))
    except EventDataError:
        raise
    except Exception as error:
        msg = f"the factory of {name!r} refused the data: {type(error).__name__}"
        raise EventDataError(msg) from error
    if not isinstance(made, CustomEvent):
        msg = f"the factory of {name!r} returned no CustomEvent but {type(made).__qualname__}"
        raise EventDataError(msg)
    return made


def _plain_event(name: str, version: int) -> EventMaker:
    def make(data: dict[str, object]) -> CustomEvent:
        """Return an event of this name and version with *data*, which is not checked."""
        event = CustomEvent(name, data)
        event.version = version
        return event

    return make


def _validator(schema: type) -> Callable[[object], object]:
    """Return what raises for data that do not fit *schema*.

    Raises:
        TypeError: *schema* is nothing that pydantic validates.
    """
    if not isinstance(cast("object", schema), Hashable):
        msg = f"a schema is a pydantic model, or a type that pydantic validates, not {type(schema).__qualname__}"
        raise TypeError(msg)
    return _made_validator(schema)


@functools.lru_cache(maxsize=1_000)
def _made_validator(schema: type) -> Callable[[object], object]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - whoever gives a schema has it
    from pydantic.errors import PydanticUserError  # noqa: PLC0415 - as above

    try:
        return TypeAdapter[object](schema).validate_python
    except PydanticUserError as error:
        msg = f"a schema is a pydantic model, or a type that pydantic validates: {error.code}"
        raise TypeError(msg) from error


def is_type_name(name: object) -> bool:
    """Tell whether *name* can name a type."""
    return isinstance(name, str) and 0 < len(name) <= MAX_TYPE_CHARS and name.isprintable() and not name.isspace()


def _has_text_keys(attributes: object) -> bool:
    return isinstance(attributes, Mapping) and all(
        isinstance(key, str) for key in cast("Mapping[object, object]", attributes)
    )


event_factory = EventFactory()
"""The registry of this process."""

register_event_type = event_factory.register_event_type
create_event = event_factory.create_event
get_supported_types = event_factory.get_supported_types
