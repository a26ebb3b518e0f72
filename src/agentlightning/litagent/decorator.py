"""Decorators that make an agent of a function, which stays callable and unchanged."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, overload

from agentlightning import settings
from agentlightning.litagent.litagent import LitAgent
from agentlightning.litagent.signature import AgentSignature, analyse, detect, name_of, rollout_of_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentlightning.types.core import Rollout
    from agentlightning.types.resources import LLM, NamedResources, PromptTemplate

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class LlmRolloutFuncSync2(Protocol[T_contra]):
    """``def agent(task, llm)``."""

    def __call__(self, task: T_contra, llm: LLM) -> object:
        """Work on *task* with *llm*."""
        ...


class LlmRolloutFuncSync3(Protocol[T_contra]):
    """``def agent(task, llm, rollout)``."""

    def __call__(self, task: T_contra, llm: LLM, rollout: Rollout) -> object:
        """Work on *task* with *llm* in *rollout*."""
        ...


class PromptRolloutFuncSync2(Protocol[T_contra]):
    """``def agent(task, prompt_template)``."""

    def __call__(self, task: T_contra, prompt_template: PromptTemplate) -> object:
        """Work on *task* with *prompt_template*."""
        ...


class PromptRolloutFuncSync3(Protocol[T_contra]):
    """``def agent(task, prompt_template, rollout)``."""

    def __call__(self, task: T_contra, prompt_template: PromptTemplate, rollout: Rollout) -> object:
        """Work on *task* with *prompt_template* in *rollout*."""
        ...


# An async function is one whose result can be awaited, and a sync one may return anything: one set of protocols holds.
LlmRolloutFunc = LlmRolloutFuncSync2[T_contra] | LlmRolloutFuncSync3[T_contra]
"""What ``llm_rollout`` takes, plain or async."""

PromptRolloutFunc = PromptRolloutFuncSync2[T_contra] | PromptRolloutFuncSync3[T_contra]
"""What ``prompt_rollout`` takes, plain or async."""


class FunctionalLitAgent(LitAgent[T], Generic[T]):
    """An agent made of a function; made by the decorators.

    Calling it calls the function: same result, same exception, same signature, name and docstring. The call is
    traced: outside any rollout as one of its own in the default store, inside one as a span. A ``rollout`` that the
    function wants and the call leaves out is that one. With ``AGL_ENABLED=0`` nothing but the function runs.
    Thread-safe; can be pickled where the function can be imported by its name.
    """

    def __init__(
        self, rollout_func: Callable[..., Any], *, strip_proxy: bool = True, signature: AgentSignature | None = None
    ) -> None:
        """Make an agent of *rollout_func*.

        Args:
            rollout_func: A function with one of the signatures of the table, plain or async.
            strip_proxy: Hand a ``ProxyLLM`` over as a plain ``LLM`` whose endpoint is that of the attempt.
            signature: What is known about the function; None to look.

        Raises:
            NotImplementedError: The parameters are in no row of the table.
        """
        super().__init__()
        self._signature = signature or detect(rollout_func)
        self._function = rollout_func
        self._strip_proxy = strip_proxy
        self._name = name_of(rollout_func)
        functools.update_wrapper(cast("Callable[..., Any]", self), rollout_func)
        if self._signature.is_async and sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own
        """Call the function as it was written; see the class."""
        lacks_rollout = self._signature.rollout_place is not None and self._signature.lacks_rollout(args, kwargs)
        if not settings.get(settings.ENABLED):
            if lacks_rollout:
                kwargs["rollout"] = rollout_of_call(args[0] if args else kwargs.get("task"))
            return self._function(*args, **kwargs)
        from agentlightning.litagent import direct  # noqa: PLC0415 - loads OpenTelemetry, which nobody needs who never calls

        call = direct.call_async if self._signature.is_async else direct.call
        return call(self._name, self._function, (args, kwargs), lacks_rollout=lacks_rollout)

    def __repr__(self) -> str:
        """Return the name of the function."""
        return f"<agent {self._name}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        """Pickle by name where the name means this object: the function itself is hidden behind it."""
        found: object = sys.modules.get(getattr(self._function, "__module__", ""))
        place = str(getattr(self._function, "__qualname__", ""))
        for part in place.split("."):
            found = getattr(found, part, None)
        return place if found is self else cast("tuple[object, ...]", super().__reduce_ex__(2))

    def is_async(self) -> bool:
        """Tell whether the function is async."""
        return self._signature.is_async

    def check_resources(self, resources: NamedResources) -> None:
        """Refuse resources without the one that the function wants; see ``LitAgent``."""
        if self._signature.resource == "llm":
            self._first_llm(resources)
        else:
            self._prompt_template(resources)

    def rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> Any:  # noqa: ANN401 - the function's own
        """Call the function with the resource that it wants, without tracing of its own.

        Raises:
            RuntimeError: The function is async.
            ValueError: There is no resource of the type that it wants.
        """
        if self.is_async():
            msg = f"{self._name} is async; await rollout_async() instead"
            raise RuntimeError(msg)
        return self._function(**self._arguments(task, resources, rollout))

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> Any:  # noqa: ANN401
        """Await the function with the resource that it wants, without tracing of its own.

        Raises:
            RuntimeError: The function is not async.
            ValueError: There is no resource of the type that it wants.
        """
        if not self.is_async():
            msg = f"{self._name} is not async; call rollout() instead"
            raise RuntimeError(msg)
        return await cast("Awaitable[Any]", self._function(**self._arguments(task, resources, rollout)))

    def _arguments(self, task: T, resources: NamedResources, rollout: Rollout) -> dict[str, object]:
        wanted = self._signature.resource
        value = self._llm(resources, rollout) if wanted == "llm" else self._prompt_template(resources)
        arguments: dict[str, object] = {"task": task, wanted: value}
        if self._signature.wants_rollout:
            arguments["rollout"] = rollout
        return arguments

    def _llm(self, resources: NamedResources, rollout: Rollout) -> LLM:
        from agentlightning.types.core import AttemptedRollout  # noqa: PLC0415 - decorating loads no pydantic
        from agentlightning.types.resources import ProxyLLM  # noqa: PLC0415

        llm = self._first_llm(resources)
        if not self._strip_proxy or not isinstance(llm, ProxyLLM):
            return llm
        if not isinstance(rollout, AttemptedRollout):
            msg = (
                f"the endpoint of the ProxyLLM for {self._name} is that of one attempt, and the rollout has none; "
                "pass an AttemptedRollout, or decorate with @llm_rollout(strip_proxy=False)"
            )
            raise ValueError(msg)  # noqa: TRY004 - of the API sheet: what is missing is a ValueError
        return llm.with_attempted_rollout(rollout)

    def _first_llm(self, resources: NamedResources) -> LLM:
        from agentlightning.types.resources import LLM  # noqa: PLC0415 - decorating loads no pydantic

        return first_resource(resources, LLM, "llm", self._name)

    def _prompt_template(self, resources: NamedResources) -> PromptTemplate:
        from agentlightning.types.resources import PromptTemplate  # noqa: PLC0415 - decorating loads no pydantic

        return first_resource(resources, PromptTemplate, "prompt_template", self._name)


def rollout(func: Callable[..., Any]) -> FunctionalLitAgent[Any]:
    """Make an agent of *func*: ``(task, llm[, rollout])`` or ``(task, prompt_template[, rollout])``, plain or async.

    Raises:
        NotImplementedError: The parameters are others; the message says which are wanted.
    """
    return FunctionalLitAgent(func, signature=detect(func))


@overload
def llm_rollout(func: LlmRolloutFunc[T]) -> FunctionalLitAgent[T]:
    """As ``@llm_rollout``."""


@overload
def llm_rollout(*, strip_proxy: bool = True) -> Callable[[LlmRolloutFunc[T]], FunctionalLitAgent[T]]:
    """As ``@llm_rollout(...)``."""


def llm_rollout(
    func: LlmRolloutFunc[T] | None = None, *, strip_proxy: bool = True
) -> FunctionalLitAgent[T] | Callable[[LlmRolloutFunc[T]], FunctionalLitAgent[T]]:
    """Make an agent of a function ``(task, llm[, rollout])``, plain or async; also as ``@llm_rollout()``.

    Args:
        func: The function.
        strip_proxy: Hand a ``ProxyLLM`` over as a plain ``LLM`` whose endpoint is that of the attempt.

    Raises:
        ValueError: A parameter is missing or too much; the message names it.
    """

    def decorate(function: LlmRolloutFunc[T]) -> FunctionalLitAgent[T]:
        """Make the agent; ValueError names the parameter that is wrong."""
        return FunctionalLitAgent(function, strip_proxy=strip_proxy, signature=analyse(function, "llm"))

    return decorate if func is None else decorate(func)


@overload
def prompt_rollout(func: PromptRolloutFunc[T]) -> FunctionalLitAgent[T]:
    """As ``@prompt_rollout``."""


@overload
def prompt_rollout() -> Callable[[PromptRolloutFunc[T]], FunctionalLitAgent[T]]:
    """As ``@prompt_rollout()``."""


def prompt_rollout(
    func: PromptRolloutFunc[T] | None = None,
) -> FunctionalLitAgent[T] | Callable[[PromptRolloutFunc[T]], FunctionalLitAgent[T]]:
    """Make an agent of a function ``(task, prompt_template[, rollout])``, plain or async.

    Raises:
        ValueError: A parameter is missing or too much; the message names it.
    """

    def decorate(function: PromptRolloutFunc[T]) -> FunctionalLitAgent[T]:
        """Make the agent; ValueError names the parameter that is wrong."""
        return FunctionalLitAgent(function, signature=analyse(function, "prompt_template"))

    return decorate if func is None else decorate(func)


R = TypeVar("R")


def first_resource(resources: NamedResources, kind: type[R], parameter: str, agent: str) -> R:
    """Return the first resource of *kind*; several warn, none is an error."""
    found = [(name, value) for name, value in resources.items() if isinstance(value, kind)]
    if not found:
        there = ", ".join(f"{name!r} ({type(value).__name__})" for name, value in resources.items()) or "none at all"
        msg = (
            f"{agent} wants a resource for its parameter {parameter!r}, and there is no {kind.__name__} among the "
            f"resources of the rollout: {there}; add one, such as initial_resources={{'main': {kind.__name__}(...)}}"
        )
        raise ValueError(msg)
    name, value = found[0]
    if len(found) > 1:
        others = ", ".join(repr(other) for other, _ in found[1:])
        message = f"{agent} gets the resource {name!r} as {parameter!r}; there are others of its type: {others}"
        warnings.warn(message, UserWarning, stacklevel=2)
    return value
