"""Parts of a trainer, given as an object, a class, a factory, a name, or a dict with a name and arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Union, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

ComponentSpec = Union[T, type[T], Callable[[], T], str, dict[str, Any], None]  # noqa: UP007 - | takes no type variables
"""How a part may be given; None is the default part.

``"shm"`` and ``"package.module.Class"`` name a class or factory, ``{"type": name, "argument": value}`` arguments too.
"""


class Slot(NamedTuple):
    """What a part has to be."""

    name: str
    """Argument of the trainer."""
    kind: type
    options: Mapping[str, object] = {}
    """Arguments of the trainer that the part gets where its constructor knows them and nobody gave them."""
    registry: Mapping[str, str] = {}


def build_component(spec: object, slot: Slot) -> Any:  # noqa: ANN401 - an instance of slot.kind, which the caller knows
    """Return the part that *spec* means.

    Raises:
        TypeError: *spec* means something else; the message names the argument and what is wanted.
        ValueError: A name that is unknown.
    """
    if isinstance(spec, slot.kind) and not isinstance(spec, type):  # a class has the methods of a protocol, too
        return spec
    arguments: dict[str, object] = {}
    maker = spec
    if isinstance(spec, dict):
        arguments = dict(cast("dict[str, object]", spec))
        maker = arguments.pop("type", None)
        if maker is None:
            msg = f"{slot.name}={spec!r} has no 'type'; write {{'type': 'package.module.Class', ...}}"
            raise ValueError(msg)
    if isinstance(maker, str):
        maker = _find(maker, slot)
    if not callable(maker):
        msg = f"{slot.name}={spec!r} is neither {_an(slot.kind)}, nor a class, factory or name of one"
        raise TypeError(msg)
    built = maker(**{**dict(_known(maker, slot.options)), **arguments})
    if not isinstance(built, slot.kind):
        msg = f"{slot.name}={spec!r} makes {type(built).__qualname__}, which is not {_an(slot.kind)}"
        raise TypeError(msg)
    return built


def _find(name: str, slot: Slot) -> object:
    path = slot.registry.get(name, name)
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        known = f"one of {', '.join(slot.registry)}, or " if slot.registry else ""
        msg = f"{slot.name}={name!r} names nothing ({error}); use {known}the full path of a class"
        raise ValueError(msg) from error


def _known(maker: Callable[..., object], options: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the options that *maker* has a parameter for."""
    try:
        parameters = inspect.signature(maker).parameters
    except (TypeError, ValueError):
        return
    for name, value in options.items():
        if name in parameters and value is not None:
            yield name, value


def _an(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
