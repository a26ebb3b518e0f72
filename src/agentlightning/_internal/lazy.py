"""Public names that resolve on first use (PEP 562)."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as type checkers read it: ``typing`` takes 5 ms in every traced process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for *package*, whose name → module table is *homes*.

    A resolved name is kept in the package, so that the next use costs nothing.
    """

    def resolve(name: str) -> Any:  # noqa: ANN401 - any public object
        """Return the public object called *name*; AttributeError when the package has none."""
        home = homes.get(name)
        if home is None:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from importlib import import_module  # noqa: PLC0415 - not for those that only pass through the package

        value = getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        """Return every name of the package, loaded or not, sorted."""
        return sorted({*vars(sys.modules[package]), *homes})

    return resolve, names
