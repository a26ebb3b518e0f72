"""Agent, algorithm, runners and store, brought together and run to the end."""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agentlightning import settings
from agentlightning._internal.answer import Answer, answer_of
from agentlightning.adapter.base import Adapter
from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.fast import Baseline, FastAlgorithm
from agentlightning.execution.base import ExecutionStrategy
from agentlightning.execution.client_server import ClientServerExecutionStrategy
from agentlightning.litagent.litagent import LitAgent
from agentlightning.runner.agent import LitAgentRunner
from agentlightning.runner.base import Runner
from agentlightning.store.base import LightningStore
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.otel import OtelTracer
from agentlightning.trainer.component import ComponentSpec, Slot, build_component
from agentlightning.trainer.job import AlgorithmJob, RunnerJob
from agentlightning.trainer.progress import progress_bar
from agentlightning.trainer.registry import ExecutionStrategyRegistry
from agentlightning.trainer.transfer import copy_rollouts
from agentlightning.types.core import Hook
from agentlightning.types.protocol import ModelProxy
from agentlightning.types.resources import LLM, ProxyLLM

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from agentlightning.types.core import Dataset
    from agentlightning.types.resources import NamedResources

T = TypeVar("T")

log = logging.getLogger("agentlightning.trainer")


class Trainer:
    """Runs an agent on tasks as an algorithm wants it; call ``fit`` or ``dev`` from the main thread.

    Each part may be given as an object, a class, a factory, a name, or ``{"type": name, ...}``; what is not given is a
    default. Without *store*, a private one is used (in memory for threads, a temporary SQLite file for processes),
    whose rollouts are copied into ``$AGL_STORE`` afterwards where that is set; it stays readable as ``store``.
    """

    def __init__(  # noqa: PLR0913 - signature of the API sheet
        self,
        *,
        dev: bool = False,
        n_runners: int | None = None,
        max_rollouts: int | None = None,
        initial_resources: NamedResources | None = None,
        tracer: ComponentSpec[Tracer] = None,
        adapter: ComponentSpec[Adapter[Any, Any]] = None,
        store: ComponentSpec[LightningStore] = None,
        runner: ComponentSpec[Runner[Any]] = None,
        strategy: ComponentSpec[ExecutionStrategy] = None,
        port: int | None = None,
        algorithm: ComponentSpec[Algorithm] = None,
        llm_proxy: ComponentSpec[ModelProxy] | Callable[[LightningStore], ModelProxy] = None,
        n_workers: int | None = None,
        hooks: Hook | Sequence[Hook] | None = None,
        progress: bool | None = None,
    ) -> None:
        """Make a trainer; nothing runs before ``fit`` or ``dev``.

        Args:
            dev: Make ``fit`` do what ``dev`` does.
            n_runners: Runners at once, default 1; *n_workers* is another name for it.
            max_rollouts: Each runner ends after claiming so many; None: no bound.
            initial_resources: What the algorithm begins with.
            tracer: Default ``OtelTracer``.
            adapter: Turns traces into training data; handed to the algorithm. Default ``TracerTraceToTriplet``.
            store: Where everything is kept.
            runner: Default ``LitAgentRunner``.
            strategy: ``"shm"`` (threads, the default), ``"cs"`` (processes), or one of your own.
            port: Port of the store server of the strategy ``cs``.
            algorithm: What ``fit`` runs.
            llm_proxy: Serves the models; handed to the algorithm, and among the resources to begin with, where these
                hold no model. It is started and stopped by the trainer unless it runs. A class or factory gets the
                trainer's store as ``store``.
            n_workers: See *n_runners*.
            hooks: Called around each rollout.
            progress: Show a progress bar on stderr; None: when that is a terminal.

        Raises:
            ValueError: A number or name makes no sense.
            TypeError: A part is not what it should be; the message names the argument.
        """
        if n_runners is not None and n_workers not in (None, n_runners):
            msg = f"n_workers is another name for n_runners, and they differ: {n_workers} and {n_runners}; give one"
            raise ValueError(msg)
        self.n_runners = n_runners or n_workers or 1
        self.max_rollouts = max_rollouts
        self.initial_resources = initial_resources
        self.port = port
        if adapter is not None:
            self.adapter = build_component(adapter, Slot("adapter", Adapter))
        self.hooks: Sequence[Hook] = _hooks(hooks)
        self._dev = dev
        self._progress = progress
        self.tracer: Tracer = build_component(tracer or OtelTracer, Slot("tracer", Tracer))
        self.algorithm: Algorithm | None = (
            None if algorithm is None else build_component(algorithm, Slot("algorithm", Algorithm))
        )
        self.strategy: ExecutionStrategy = build_component(strategy or "shm", self._strategy_slot())
        runner_slot = Slot("runner", Runner, {"tracer": self.tracer, "max_rollouts": max_rollouts})
        self.runner: Runner[Any] = build_component(runner or LitAgentRunner, runner_slot)
        self._is_private = store is None
        self._copied: set[str] = set()
        self.store: LightningStore = build_component(store or self._private_store, Slot("store", LightningStore))
        self.llm_proxy: ModelProxy | None = (
            None
            if llm_proxy is None
            else build_component(llm_proxy, Slot("llm_proxy", ModelProxy, {"store": self.store}))
        )

    @functools.cached_property
    def adapter(self) -> Adapter[Any, Any]:
        """What turns traces into training data; the default one is made when it is first asked for."""
        from agentlightning.adapter.triplet import TracerTraceToTriplet  # noqa: PLC0415 - see above

        return TracerTraceToTriplet()

    @property
    def n_workers(self) -> int:
        """Another name for ``n_runners``."""
        return self.n_runners

    def fit(
        self,
        agent: LitAgent[T],
        train_dataset: Dataset[T] | None = None,
        *,
        val_dataset: Dataset[T] | None = None,
    ) -> None:
        """Run the algorithm to its end, with *agent* working on what it enqueues. Blocking.

        Raises:
            ValueError: There is no algorithm.
            TypeError: *agent* is no ``LitAgent``, or a dataset is given that the algorithm does not take.
            ValueError: The algorithm runs with the initial resources, and the agent's is not among them.
            KeyboardInterrupt: Ctrl+C; everything was stopped, unfinished rollouts are back in the queue.
            Exception: What the algorithm raised.
        """
        if self._dev:
            self.dev(agent, train_dataset, val_dataset=val_dataset)
            return
        algorithm = self.algorithm
        if algorithm is None:
            if not self._only_runs():
                msg = "fit() needs an algorithm: Trainer(algorithm=...); to just run every task once, call dev()"
                raise ValueError(msg)
            algorithm = Algorithm()
        self._execute(algorithm, agent, train_dataset, val_dataset)

    def dev(
        self,
        agent: LitAgent[T],
        train_dataset: Dataset[T] | None = None,
        *,
        val_dataset: Dataset[T] | None = None,
    ) -> None:
        """Try *agent* out: as ``fit``, with an algorithm that is done soon, by default ``Baseline``.

        Raises:
            ValueError: The trainer's algorithm is no ``FastAlgorithm``.
            Exception: As in ``fit``.
        """
        algorithm = self.algorithm or Baseline(polling_interval=1.0)
        if not isinstance(algorithm, FastAlgorithm):
            msg = (
                f"dev() runs algorithms that are done soon, and {type(algorithm).__qualname__} is no FastAlgorithm; "
                "call fit(), or make the trainer without an algorithm to use Baseline"
            )
            raise ValueError(msg)  # noqa: TRY004 - of the 0.2 line
        self._execute(algorithm, agent, train_dataset, val_dataset)

    def _execute(
        self,
        algorithm: Algorithm,
        agent: LitAgent[Any],
        train_dataset: Dataset[object] | None,
        val_dataset: Dataset[object] | None,
    ) -> None:
        _check_agent(agent)
        algorithm.check_datasets(train_dataset, val_dataset)
        with self._resources() as resources:
            if isinstance(algorithm, FastAlgorithm) and (resources is not None or self._is_private):
                agent.check_resources(resources or {})  # it runs with these; others find out for themselves
            agent.set_trainer(self)
            algorithm.set_trainer(self)
            self._run(
                AlgorithmJob(algorithm, train_dataset, val_dataset, resources, self.adapter, self.llm_proxy),
                RunnerJob(self.runner, agent, self.hooks),
            )

    def _run(self, algorithm_job: AlgorithmJob, runner_job: RunnerJob) -> None:
        for part in (self.tracer, *self.hooks):
            part.init()
        try:
            with progress_bar(self.store, shown=self._progress):
                _outside_event_loops(lambda: self.strategy.execute(algorithm_job, runner_job, self.store))
        finally:
            for part in (*self.hooks, self.tracer):
                part.teardown()
            self._copy()

    @contextmanager
    def _resources(self) -> Generator[NamedResources | None]:
        """Give what the algorithm begins with, while the proxy runs."""
        proxy = self.llm_proxy
        if proxy is None or self._only_runs():
            yield self.initial_resources
            return
        is_ours = not proxy.is_running()
        if is_ours:
            proxy.start()
        try:
            yield _with_model(self.initial_resources or {}, proxy)
        finally:
            if is_ours:
                proxy.stop()

    def _strategy_slot(self) -> Slot:
        options = {"n_runners": self.n_runners, "server_port": self.port, "main_thread": "algorithm"}
        return Slot("strategy", ExecutionStrategy, options, ExecutionStrategyRegistry)

    def _only_runs(self) -> bool:
        """Tell whether the algorithm is on another machine."""
        return isinstance(self.strategy, ClientServerExecutionStrategy) and self.strategy.role == "runner"

    def _private_store(self) -> LightningStore:
        if not isinstance(self.strategy, ClientServerExecutionStrategy):
            from agentlightning.store.memory import InMemoryLightningStore  # noqa: PLC0415 - only where it is used

            return InMemoryLightningStore()
        from agentlightning.store.url import open_store  # noqa: PLC0415

        folder = tempfile.mkdtemp(prefix="agentlightning-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return open_store(str(Path(folder) / "trainer.db"))

    def _copy(self) -> None:
        """Copy what is new in the private store to where the user looks for rollouts."""
        if not self._is_private or not settings.get(settings.STORE) or self._only_runs():
            return
        from agentlightning.store.url import open_store  # noqa: PLC0415 - only where something is copied

        async def copy() -> None:
            """Copy what the default store does not have yet."""
            target = open_store()
            try:
                self._copied.update(await copy_rollouts(self.store, target, known=self._copied))
            finally:
                target.close()

        _outside_event_loops(lambda: asyncio.run(copy()))


def _with_model(resources: NamedResources, proxy: ModelProxy) -> NamedResources:
    """Return *resources* with the model of *proxy* where they hold none."""
    models = [resource for resource in resources.values() if isinstance(resource, LLM)]
    if models:
        if not any(isinstance(model, ProxyLLM) for model in models):
            log.info("the models among the initial resources do not go through llm_proxy; leave them out to use it")
        return resources
    return {**resources, "llm_proxy" if "llm" in resources else "llm": proxy.as_resource()}


def _check_agent(agent: object) -> None:
    if not isinstance(agent, LitAgent):
        msg = (
            f"{getattr(agent, '__name__', type(agent).__qualname__)} is no LitAgent; decorate the function with "
            "@rollout, or pass wrap(agent)"
        )
        raise TypeError(msg)


def _hooks(hooks: object) -> tuple[Hook, ...]:
    given = () if hooks is None else cast("Sequence[object]", hooks) if isinstance(hooks, Sequence) else (hooks,)
    found = tuple(hook for hook in given if isinstance(hook, Hook))
    if len(found) != len(given):
        wrong = ", ".join(type(hook).__qualname__ for hook in given if not isinstance(hook, Hook))
        msg = f"hooks has to hold Hook objects, not {wrong}; subclass agentlightning.Hook"
        raise TypeError(msg)
    return found


def _outside_event_loops(work: Callable[[], None]) -> None:
    """Call *work* where no event loop runs: here, or in a notebook on a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        work()
        return
    answers: list[Answer[None]] = []
    thread = threading.Thread(target=lambda: answers.append(answer_of(work)), name="agentlightning-trainer")
    thread.start()
    thread.join()
    for answer in answers:
        answer.get()
