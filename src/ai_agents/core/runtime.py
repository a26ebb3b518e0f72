"""What is known of the running program."""

from __future__ import annotations

import threading
import uuid
from functools import cached_property
from importlib.metadata import version


class Runtime:
    """Name of the application and of its business, each set once, and the id of this process's run. Thread-safe."""

    def __init__(self) -> None:
        """Begin with nothing set."""
        self._lock = threading.Lock()
        self._app: str | None = None
        self._biz_id: str | None = None

    @property
    def app(self) -> str | None:
        """Name of the application.

        Raises:
            ValueError: It is set to a second, different value.
        """
        return self._app

    @app.setter
    def app(self, value: str) -> None:
        """Set the name; raises ValueError for a second, different one. Thread-safe."""
        with self._lock:
            self._app = _once("app", self._app, value)

    @property
    def biz_id(self) -> str | None:
        """Name of what the application is used for.

        Raises:
            ValueError: It is set to a second, different value.
        """
        return self._biz_id

    @biz_id.setter
    def biz_id(self, value: str) -> None:
        """Set the name; raises ValueError for a second, different one. Thread-safe."""
        with self._lock:
            self._biz_id = _once("biz_id", self._biz_id, value)

    @cached_property
    def session_id(self) -> str:
        """Id of this run of the program."""
        return str(uuid.uuid4())

    @cached_property
    def version(self) -> str:
        """Release of the package."""
        return version("agentlightning")


def _once(name: str, before: str | None, value: str) -> str:
    if before is not None and before != value:
        msg = f"runtime.{name} is {before!r} already; it cannot become {value!r}"
        raise ValueError(msg)
    return value


runtime = Runtime()
"""The running program."""
