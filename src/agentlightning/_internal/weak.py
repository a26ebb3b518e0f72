"""References that keep nothing alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import weakref

T = TypeVar("T")


def alive(reference: weakref.ReferenceType[T] | None, missing: str) -> T:
    """Return what *reference* is of.

    Raises:
        RuntimeError: There is none, or it is gone; *missing* says what and how to give one.
    """
    found = reference() if reference else None
    if found is None:
        raise RuntimeError(missing)
    return found
