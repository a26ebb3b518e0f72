"""What every algorithm is: something that runs once, with a store, and what a trainer gives it."""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any

from agentlightning._internal.weak import alive

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Dataset
    from agentlightning.types.protocol import ModelProxy
    from agentlightning.types.resources import NamedResources


class Algorithm:
    """Enqueues rollouts and learns from what comes back; override ``run``, plain or async.

    A trainer sets store, adapter, proxy and initial resources before ``run``. Trainer, adapter and proxy are held
    weakly; their classes live elsewhere, so what is returned has no type. A subclass need not call ``__init__`` of this
    class.
    """

    _trainer_ref: weakref.ReferenceType[object] | None = None
    _llm_proxy_ref: weakref.ReferenceType[ModelProxy] | None = None
    _adapter_ref: weakref.ReferenceType[object] | None = None
    _store: LightningStore | None = None
    _initial_resources: NamedResources | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave out what is held weakly: it stays in the process that it is in."""
        return {name: value for name, value in vars(self).items() if not name.endswith("_ref")}

    def is_async(self) -> bool:
        """Tell whether ``run`` has to be awaited."""
        return inspect.iscoroutinefunction(self.run)

    def set_trainer(self, trainer: object) -> None:
        """Note which trainer the algorithm works for."""
        self._trainer_ref = weakref.ref(trainer)

    def get_trainer(self) -> Any:  # noqa: ANN401 - a Trainer
        """Return the trainer.

        Raises:
            RuntimeError: None was set, or it is gone.
        """
        return alive(self._trainer_ref, "the algorithm has no trainer; call Trainer.fit()")

    def set_llm_proxy(self, llm_proxy: ModelProxy | None) -> None:
        """Note which proxy serves the models; None for none."""
        self._llm_proxy_ref = None if llm_proxy is None else weakref.ref(llm_proxy)

    def get_llm_proxy(self) -> ModelProxy | None:
        """Return the proxy, None when there is none.

        Raises:
            RuntimeError: The proxy that was set is gone.
        """
        missing = "the algorithm has no proxy; keep a reference to it"
        return None if self._llm_proxy_ref is None else alive(self._llm_proxy_ref, missing)

    def set_adapter(self, adapter: object) -> None:
        """Note what turns traces into training data."""
        self._adapter_ref = weakref.ref(adapter)

    def get_adapter(self) -> Any:  # noqa: ANN401 - a TraceAdapter
        """Return the adapter.

        Raises:
            RuntimeError: None was set, or it is gone.
        """
        missing = "the algorithm has no adapter; give one to the trainer: Trainer(adapter=...)"
        return alive(self._adapter_ref, missing)

    def set_store(self, store: LightningStore) -> None:
        """Set where rollouts are enqueued and spans are read."""
        self._store = store

    def get_store(self) -> LightningStore:
        """Return the store.

        Raises:
            RuntimeError: None was set.
        """
        if self._store is None:
            msg = "the algorithm has no store; run it by a Trainer, or call set_store()"
            raise RuntimeError(msg)
        return self._store

    def get_initial_resources(self) -> NamedResources | None:
        """Return the resources to begin with, None when there are none."""
        return self._initial_resources

    def set_initial_resources(self, resources: NamedResources) -> None:
        """Set the resources to begin with."""
        self._initial_resources = resources

    def check_datasets(self, train_dataset: Dataset[Any] | None, val_dataset: Dataset[Any] | None) -> None:
        """Refuse data that the algorithm cannot use, before anything runs; takes everything by default.

        Raises:
            TypeError: A dataset is given that would be ignored.
        """

    def run(
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> Awaitable[None] | None:
        """Run to the end; a trainer stops its runners when this returns.

        Raises:
            NotImplementedError: A subclass does not override it.
        """
        _ = train_dataset, val_dataset
        msg = f"{type(self).__qualname__} has to define run(), plain or async"
        raise NotImplementedError(msg)
