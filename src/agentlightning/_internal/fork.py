"""What has to come to rest before this process forks.

Hooks of the pipeline are registered after this module's, so they run before: the worker stops first, then the
connections that it uses are closed.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from agentlightning._internal.guard import guard


class Resting(Protocol):
    """An object that is told about forks. None of the methods may wait for long."""

    def before_fork(self) -> None:
        """Come to rest; no other thread may change the object until one of the others is called."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on in the process that forked."""
        ...

    def after_fork_in_child(self) -> None:
        """Go on in the child, where only the thread that forked is left."""
        ...


_resting: dict[int, weakref.ref[Resting]] = {}


def rest_at_fork(thing: Resting) -> None:
    """Tell *thing* about every fork from now on, as long as it lives."""
    key = id(thing)
    _resting[key] = weakref.ref(thing, lambda _: _resting.pop(key, None))


def _all() -> list[Resting]:
    things = (reference() for reference in list(_resting.values()))
    return [thing for thing in things if thing is not None]


def _before() -> None:
    for thing in _all():
        with guard("fork.before"):
            thing.before_fork()


def _in_parent() -> None:
    for thing in _all():
        with guard("fork.parent"):
            thing.after_fork_in_parent()


def _in_child() -> None:
    for thing in _all():
        with guard("fork.child"):
            thing.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
