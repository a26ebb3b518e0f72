"""The running rollout and span go on in child processes.

By environment for programs, by the process object for ``multiprocessing``. Standard library only at import
time; OpenTelemetry is asked only when the process has loaded it.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from agentlightning import settings
from agentlightning._internal.context import RunningRollout, format_traceparent, home_rollout, running
from agentlightning._internal.guard import guard
from agentlightning._internal.ids import virtual_span_id
from agentlightning.instrumentation.base import Instrumentor, Patches

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import TracerProvider

_OF_SAMPLING: tuple[settings.Setting[Any], ...] = (
    settings.SAMPLE_RATE,
    settings.SAMPLE_RULES,
    settings.TAIL_ERRORS,
    settings.TAIL_REWARDS,
    settings.TAIL_SLOW_S,
    settings.TAIL_COST_USD,
)

_ENVIRONMENT_ARGUMENT = 10
"""Place of ``env`` among the positional arguments of ``subprocess.Popen``."""

_CARRIED = "_agentlightning_environment"
"""Attribute of a ``multiprocessing`` process object that carries the variables to the child."""


def child_environment() -> dict[str, str] | None:
    """Return the variables that a child needs to go on where the caller is, or None when it inherits them anyway."""
    home = home_rollout()
    rollout = running.get() or home
    span = _current_span()
    sampling = _sampling_variables(rollout)
    if rollout is None or (rollout is home and span is None):
        return sampling or None
    trace_id, span_id = span or (rollout.trace_id, rollout.parent_span_id or virtual_span_id(rollout.attempt_id))
    variables = {
        "AGL_ROLLOUT_ID": rollout.rollout_id,
        "AGL_ATTEMPT_ID": rollout.attempt_id,
        "TRACEPARENT": format_traceparent(trace_id, span_id),
    }
    if rollout.store_url:
        variables["AGL_STORE"] = rollout.store_url
    return variables | sampling


def _sampling_variables(rollout: RunningRollout | None) -> dict[str, str]:
    """Return what a child has to know beside the trace id to decide as this process does, where it cannot know it."""
    found: dict[str, str] = {}
    for setting in _OF_SAMPLING:
        value, source = settings.lookup(setting)
        if source == "configure":
            found[setting.variable] = str(value)
    fixed = None if rollout is None else rollout.sample_rate
    if fixed is not None and fixed != settings.lookup(settings.SAMPLE_RATE)[0]:
        found[settings.SAMPLE_RATE.variable] = str(fixed)
    return found


def _current_span() -> tuple[int, int] | None:
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    return (context.trace_id, context.span_id) if context.is_valid else None


class SubprocessInstrumentor(Instrumentor):
    """Hands the running rollout to programs that are started with ``subprocess`` (and so with ``asyncio``)."""

    name: ClassVar[str] = "subprocess"
    modules: ClassVar[tuple[str, ...]] = ("subprocess",)

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._patches = Patches()

    def _install(self, tracer_provider: TracerProvider) -> None:
        _ = tracer_provider  # children make their own spans
        original: Callable[..., None] = subprocess.Popen.__init__

        @functools.wraps(original)
        def init(popen: object, *args: object, **kwargs: object) -> None:
            """Start the program with rollout and trace of the caller in its environment."""
            with guard("subprocess"):
                args, kwargs = _with_environment(args, kwargs)
            original(popen, *args, **kwargs)

        self._patches.replace(subprocess.Popen, "__init__", init)

    def _remove(self) -> None:
        self._patches.restore()


def _with_environment(
    args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Add the variables to the child's environment, unless the program chose one without ours."""
    variables = child_environment()
    if variables is None:
        return args, kwargs
    positional = len(args) > _ENVIRONMENT_ARGUMENT
    given: Any = args[_ENVIRONMENT_ARGUMENT] if positional else kwargs.get("env")
    if given is None:
        given = os.environ
    elif "AGL_ROLLOUT_ID" not in given:
        return args, kwargs  # it chose what the child knows
    environment = {**given, **variables}
    if positional:
        return (*args[:_ENVIRONMENT_ARGUMENT], environment, *args[_ENVIRONMENT_ARGUMENT + 1 :]), kwargs
    return args, {**kwargs, "env": environment}


class MultiprocessingInstrumentor(Instrumentor):
    """Hands the running rollout to processes of ``multiprocessing`` and of process pools.

    A forked child has it anyway; one that is spawned gets the process object by pickle, and what it carries takes
    effect when it is unpickled. So nothing has to be watched in a child that never traces.
    """

    name: ClassVar[str] = "multiprocessing"
    modules: ClassVar[tuple[str, ...]] = ("multiprocessing.process",)

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._patches = Patches()

    def _install(self, tracer_provider: TracerProvider) -> None:
        _ = tracer_provider  # children make their own spans
        process: Any = sys.modules["multiprocessing.process"].BaseProcess
        self._patches.replace(process, "start", _carrying_start(process.start))

    def _remove(self) -> None:
        self._patches.restore()


def _carrying_start(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def start(process: object) -> None:
        """Start the process with rollout and trace of the caller in its environment."""
        with guard("multiprocessing.start"):
            variables = child_environment()
            if variables is not None:
                setattr(process, _CARRIED, _Carried(variables))
        original(process)

    return start


class _Carried:
    """Variables that take effect in the process that unpickles them."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def __reduce__(self) -> tuple[Callable[..., None], tuple[dict[str, str]]]:
        return adopt, (self.variables,)


def adopt(variables: dict[str, str]) -> None:
    """Go on in this new process where the one that started it is, whose ``child_environment`` *variables* are."""
    with guard("multiprocessing.adopt"):
        os.environ.update(variables)
        settings.forget()
        home_rollout.cache_clear()
