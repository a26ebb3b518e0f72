"""What a runner runs: an agent, with the trainer and the runner that it works for."""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentlightning._internal.weak import alive

if TYPE_CHECKING:
    from agentlightning.tracer.base import Tracer
    from agentlightning.types.core import Rollout, RolloutRawResult, Task
    from agentlightning.types.resources import NamedResources

T = TypeVar("T")


class LitAgent(Generic[T]):
    """An agent that works on one task at a time; override ``rollout`` or ``rollout_async``.

    One object serves many rollouts at once, in threads and tasks: keep what belongs to a rollout in local variables.
    Trainer and runner are held weakly, so that an agent keeps neither alive; their classes live in
    higher layers, so what is returned has no type.
    """

    def __init__(self, *, trained_agents: str | None = None) -> None:
        """Make an agent that nobody runs yet.

        Args:
            trained_agents: Names of the agents in the trace that shall be trained, as a regular expression; None: all.
        """
        self.trained_agents = trained_agents
        self._trainer: weakref.ReferenceType[object] | None = None
        self._runner: weakref.ReferenceType[Any] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave out trainer and runner: they stay in the process that they are in."""
        return {**self.__dict__, "_trainer": None, "_runner": None}

    def is_async(self) -> bool:
        """Tell whether ``rollout_async`` has to be called instead of ``rollout``."""
        return _own(self, "rollout_async")

    def set_trainer(self, trainer: object) -> None:
        """Note which trainer the agent works for."""
        self._trainer = weakref.ref(trainer)

    def get_trainer(self) -> Any:  # noqa: ANN401 - a Trainer
        """Return the trainer.

        Raises:
            RuntimeError: None was set, or it is gone.
        """
        return alive(self._trainer, "the agent has no trainer; call Trainer.fit() or Trainer.dev()")

    @property
    def trainer(self) -> Any:  # noqa: ANN401 - a Trainer
        """The trainer; see ``get_trainer``."""
        return self.get_trainer()

    def set_runner(self, runner: object) -> None:
        """Note which runner runs the agent."""
        self._runner = weakref.ref(runner)

    def get_runner(self) -> Any:  # noqa: ANN401 - a Runner
        """Return the runner.

        Raises:
            RuntimeError: None was set, or it is gone.
        """
        missing = "the agent has no runner; run it with LitAgentRunner.run_context() or a Trainer"
        return alive(self._runner, missing)

    @property
    def runner(self) -> Any:  # noqa: ANN401 - a Runner
        """The runner; see ``get_runner``."""
        return self.get_runner()

    def get_tracer(self) -> Tracer:
        """Return the tracer of the runner, else of the trainer.

        Raises:
            RuntimeError: Neither is there.
        """
        owner = self._runner() if self._runner else None
        return (self.get_trainer() if owner is None else owner).tracer

    @property
    def tracer(self) -> Tracer:
        """The tracer; see ``get_tracer``."""
        return self.get_tracer()

    def check_resources(self, resources: NamedResources) -> None:
        """Refuse resources that the agent cannot work with, before anything runs; takes everything by default.

        Raises:
            ValueError: Something is missing; the message names agent, parameter and remedy.
        """

    def on_rollout_start(self, task: Task, runner: Any, tracer: Tracer) -> None:  # noqa: ANN401 - a Runner
        """Run before a rollout; does nothing here. What it raises is logged and the rollout goes on."""

    def on_rollout_end(self, task: Task, rollout: Rollout, runner: Any, tracer: Tracer) -> None:  # noqa: ANN401
        """Run after a rollout; does nothing here. What it raises is logged."""

    def rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Work on *task*.

        Returns:
            None (the trace says it all), a number (the final reward), or a list of spans (stored as they are).
            Anything else is kept as the output of the rollout.

        Raises:
            NotImplementedError: Neither this method nor ``rollout_async`` is overridden.
        """
        _ = task, resources, rollout
        raise self._not_implemented()

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Work on *task* without blocking the event loop; otherwise as ``rollout``."""
        _ = task, resources, rollout
        raise self._not_implemented()

    def _not_implemented(self) -> Exception:
        if inspect.iscoroutinefunction(type(self).rollout):
            return NotImplementedError(f"{type(self).__qualname__}.rollout is async; name it rollout_async")
        return NotImplementedError(f"{type(self).__qualname__} has to define rollout() or rollout_async()")


def _own(agent: object, method: str) -> bool:
    return getattr(type(agent), method) is not getattr(LitAgent, method)
