"""Attributes that every span gets when it starts: those of the process, and those of the block that it starts in.

They travel in OpenTelemetry's context, so they follow the program into its tasks, threads and executors as the
current span does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from opentelemetry import context as context_api

from agentlightning._internal.context import home_rollout, running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context

    Value = str | bool | int | float

_KEY = context_api.create_key("agentlightning-span-attributes")
_of_process: dict[str, Value] = {}


class span_attributes:  # noqa: N801 - used like a function
    """Block whose spans carry some attributes: ``with span_attributes({"session.id": "a"}):``.

    Blocks add up, the inner one wins. Enter and leave it in the same thread and task; each object once at a time.
    """

    __slots__ = ("_attributes", "_token")

    def __init__(self, attributes: Mapping[str, Value]) -> None:
        """Prepare the block; nothing is set before it is entered."""
        self._attributes = dict(attributes)
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        """Begin."""
        self._token = context_api.attach(context_api.set_value(_KEY, {**inherited(None), **self._attributes}))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Put back what was there; the exception goes on."""
        token, self._token = self._token, None
        if token is not None:
            context_api.detach(token)


def set_process_attributes(attributes: Mapping[str, Value | None]) -> None:
    """Set attributes for every span that starts from now on outside all blocks; None takes one away."""
    for key, value in attributes.items():
        if value is None:
            _of_process.pop(key, None)
        else:
            _of_process[key] = value


def is_in_rollout() -> bool:
    """Tell whether spans that start here belong to a rollout that ``agl run`` or a ``trace_context`` began."""
    return (running.get() or home_rollout()) is not None


def inherited(context: Context | None) -> Mapping[str, Value]:
    """Return what a span that starts in *context* (None: the current one) gets; not to be changed."""
    found = context_api.get_value(_KEY, context)
    return _of_process if found is None else cast("Mapping[str, Value]", found)
