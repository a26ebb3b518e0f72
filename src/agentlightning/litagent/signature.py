"""What a function wants, read from its parameters once."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentlightning.types.core import AttemptedRollout

Injected = Literal["llm", "prompt_template"]
"""Parameters that get a resource."""

TABLE = (
    "(task, llm), (task, llm, rollout), (task, prompt_template) or (task, prompt_template, rollout), "
    "each plain or async"
)


class AgentSignature(NamedTuple):
    """How an agent function is to be called; the arguments go by name."""

    resource: Injected
    wants_rollout: bool
    is_async: bool
    rollout_place: int | None = None
    """How many arguments by place come before ``rollout``; None where it has a default or is not wanted."""

    def lacks_rollout(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
        """Tell whether a call leaves out the rollout that the function wants."""
        return self.rollout_place is not None and len(args) <= self.rollout_place and "rollout" not in kwargs


def rollout_of_call(task: object, ids: tuple[str, str] | None = None) -> AttemptedRollout:
    """Return the rollout that a direct call is, with these ids of rollout and attempt; new ones where none is kept."""
    from agentlightning._internal.ids import new_attempt_id, new_rollout_id  # noqa: PLC0415 - decorating needs none
    from agentlightning.types.core import Attempt, AttemptedRollout  # noqa: PLC0415 - decorating loads no pydantic

    rollout_id, attempt_id = ids or (new_rollout_id(), new_attempt_id())
    now = time.time()
    attempt = Attempt(rollout_id=rollout_id, attempt_id=attempt_id, sequence_id=1, start_time=now, status="running")
    return AttemptedRollout(rollout_id=rollout_id, input=task, start_time=now, status="running", attempt=attempt)


def name_of(function: object) -> str:
    """Return the name of a function for messages and traces; of a callable object its class's."""
    return str(getattr(function, "__name__", None) or type(function).__name__)


def is_coroutine_function(function: object) -> bool:
    """Tell whether calling *function* gives a coroutine; a partial, a method or an object with ``__call__`` too."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def analyse(function: Callable[..., object], resource: Injected) -> AgentSignature:
    """Return how to call *function*, which shall get *resource*.

    Raises:
        ValueError: The message names the function, the parameter that is missing or too much, and the remedy.
    """
    parameters = named_parameters(function)
    names = [parameter.name for parameter in parameters]
    where = f"{name_of(function)}({', '.join(names)})"
    remedy = f"declare it as {name_of(function)}(task, {resource}) or {name_of(function)}(task, {resource}, rollout)"
    if not names or names[0] != "task":
        msg = f"the first parameter of {where} has to be 'task'; {remedy}"
        raise ValueError(msg)
    if resource not in names:
        msg = f"{where} has no parameter {resource!r}; {remedy}"
        raise ValueError(msg)
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            msg = f"parameter {parameter.name!r} of {where} is positional-only and cannot be injected by name; {remedy}"
            raise ValueError(msg)
        known = parameter.name in {"task", resource, "rollout"}
        if not known and parameter.default is parameter.empty:
            msg = f"nothing can be injected as parameter {parameter.name!r} of {where}; give it a default, or {remedy}"
            raise ValueError(msg)
    places = {
        parameter.name: len(parameters) if parameter.kind is parameter.KEYWORD_ONLY else place
        for place, parameter in enumerate(parameters)
        if parameter.default is parameter.empty
    }
    return AgentSignature(resource, "rollout" in names, is_coroutine_function(function), places.get("rollout"))


def detect(function: Callable[..., object]) -> AgentSignature:
    """Return how to call *function*, whatever resource it wants.

    Raises:
        NotImplementedError: The parameters are in no row of the table; the message names function and remedy.
    """
    names = [parameter.name for parameter in named_parameters(function)]
    wanted: Sequence[Injected] = [name for name in ("llm", "prompt_template") if name in names]
    if len(wanted) != 1:
        found = "has both" if wanted else "has neither"
        msg = (
            f"{name_of(function)}({', '.join(names)}) {found} 'llm' and 'prompt_template' among its parameters; "
            f"declare it as {TABLE}"
        ).replace("has neither 'llm' and", "has neither 'llm' nor")
        raise NotImplementedError(msg)
    try:
        return analyse(function, wanted[0])
    except ValueError as error:
        raise NotImplementedError(str(error)) from None


def named_parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the parameters that can be given by name or place; ``*args`` and ``**kwargs`` take no part.

    Raises:
        TypeError: *function* cannot be called, or does not say how.
    """
    if not callable(function):
        msg = f"an agent is a function or another callable, not {type(function).__qualname__}"
        raise TypeError(msg)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        msg = f"the parameters of {name_of(function)} cannot be read; wrap it in a function with parameters of its own"
        raise TypeError(msg) from None
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
