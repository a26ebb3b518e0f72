"""What an instrumentor is, and how it changes attributes of a library so that they can be put back exactly.

Standard library only at import time.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_ABSENT = object()


class Instrumentor(ABC):
    """Makes one library write spans. Thread-safe; a second ``instrument`` or ``uninstrument`` does nothing.

    Plug-ins subclass it and name the class in the entry point group ``agentlightning.instrumentors``; the entry
    point's name is the instrumentor's name.
    """

    name: ClassVar[str]
    """Name for ``AGL_INSTRUMENT`` and ``--no-instrument``, such as ``openai``."""

    modules: ClassVar[tuple[str, ...]]
    """Modules whose import triggers it; it runs when the first of them was imported completely."""

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        self._lock = threading.RLock()
        self._active = False

    @property
    def is_active(self) -> bool:
        """Whether the library writes spans now."""
        return self._active

    def is_wanted(self) -> bool:
        """Tell whether there is anything to do for the module that was imported; asked before a provider is made."""
        return True

    def instrument(self, tracer_provider: TracerProvider) -> None:
        """Make the library write spans through *tracer_provider*.

        Raises whatever the library or an unexpected version of it raises; the registry guards the program.
        """
        with self._lock:
            if self._active:
                return
            with ExitStack() as undo:
                undo.callback(self._remove)
                self._install(tracer_provider)
                undo.pop_all()
            self._active = True

    def uninstrument(self) -> None:
        """Put back every attribute that is still ours, and delete those that were not there before.

        Where somebody has wrapped an attribute after us it stays, and our wrapper below only passes calls through.
        """
        with self._lock:
            if self._active:
                self._active = False
                self._remove()

    @abstractmethod
    def _install(self, tracer_provider: TracerProvider) -> None:
        """Change the library; what was changed before an error is removed by the caller."""

    @abstractmethod
    def _remove(self) -> None:
        """Undo whatever ``_install`` did, also when it did only a part."""


class Patches:
    """Attributes that were replaced on modules and classes. Not thread-safe: the instrumentor's lock covers it."""

    def __init__(self) -> None:
        """Start with nothing replaced."""
        self._undo: list[tuple[object, str, object, object]] = []

    def replace(self, owner: object, name: str, value: object) -> None:
        """Set *name* in the namespace of *owner* itself, a module or a class, remembering what was there."""
        before: object = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        # What the namespace really holds now: a metaclass may have stored something else.
        self._undo.append((owner, name, before, vars(owner).get(name, _ABSENT)))

    def restore(self) -> None:
        """Put back what is still as we set it, last change first; inherited attributes are inherited again."""
        while self._undo:
            owner, name, before, ours = self._undo.pop()
            if vars(owner).get(name, _ABSENT) is not ours:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
