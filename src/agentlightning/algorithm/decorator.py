"""``@algo``: an algorithm made of a function."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from agentlightning.algorithm.base import Algorithm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentlightning.types.core import Dataset

AF = TypeVar("AF", bound=bool)

INJECTED = ("store", "train_dataset", "val_dataset", "llm_proxy", "adapter", "initial_resources")
"""Parameters that an algorithm function may name."""


class FunctionalAlgorithm(Algorithm, Generic[AF]):
    """An algorithm made of a function; made by ``algo``. Calling it calls the function as it was written."""

    def __init__(self, algorithm_func: Callable[..., Any]) -> None:
        """Make an algorithm of *algorithm_func*, plain or async.

        Raises:
            TypeError: It has a parameter that nothing can be injected as.
        """
        super().__init__()
        self._function = algorithm_func
        self._is_async = inspect.iscoroutinefunction(algorithm_func)
        self._name = str(getattr(algorithm_func, "__name__", type(algorithm_func).__name__))
        self._wanted = _wanted(algorithm_func, self._name)
        functools.update_wrapper(cast("Callable[..., Any]", self), algorithm_func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own
        """Call the function as it was written."""
        return self._function(*args, **kwargs)

    def is_async(self) -> bool:
        """Tell whether the function is async."""
        return self._is_async

    def check_datasets(self, train_dataset: Dataset[object] | None, val_dataset: Dataset[object] | None) -> None:
        """Refuse a dataset that the function has no parameter for.

        Raises:
            TypeError: The message names function, parameter and remedy.
        """
        for name, dataset in (("train_dataset", train_dataset), ("val_dataset", val_dataset)):
            if dataset is not None and name not in self._wanted:
                parameters = ", ".join(self._wanted)
                msg = (
                    f"{self._name}({parameters}) takes no {name!r}, and one was given; add the parameter {name!r} "
                    "to the function, or call the trainer without it"
                )
                raise TypeError(msg)

    @overload
    def run(
        self: FunctionalAlgorithm[Literal[False]],
        train_dataset: Dataset[object] | None = None,
        val_dataset: Dataset[object] | None = None,
    ) -> None:
        """Call a plain function: done when it returns."""

    @overload
    def run(
        self: FunctionalAlgorithm[Literal[True]],
        train_dataset: Dataset[object] | None = None,
        val_dataset: Dataset[object] | None = None,
    ) -> Awaitable[None]:
        """Call an async function: done when it was awaited."""

    @overload
    def run(
        self, train_dataset: Dataset[object] | None = None, val_dataset: Dataset[object] | None = None
    ) -> Awaitable[None] | None:
        """Call a function of either kind."""

    def run(
        self, train_dataset: Dataset[object] | None = None, val_dataset: Dataset[object] | None = None
    ) -> Awaitable[None] | None:
        """Call the function with what it names.

        Raises:
            TypeError: A dataset is given that the function does not take; nothing has run.
            RuntimeError: The function names a store or an adapter, and there is none.
        """
        self.check_datasets(train_dataset, val_dataset)
        given = {"train_dataset": train_dataset, "val_dataset": val_dataset}
        sources: dict[str, Callable[[], object]] = {
            "store": self.get_store,
            "llm_proxy": self.get_llm_proxy,
            "adapter": self.get_adapter,
            "initial_resources": self.get_initial_resources,
        }
        # A parameter with a default keeps it where there is nothing to inject.
        arguments: dict[str, object] = {}
        for name, is_optional in self._wanted.items():
            if name in given:
                value = given[name]
            elif name == "adapter" and is_optional and self._adapter_ref is None:
                continue
            else:
                value = sources[name]()
            if value is not None or not is_optional:
                arguments[name] = value
        return self._function(**arguments)


def algo(func: Callable[..., Any]) -> FunctionalAlgorithm[Any]:
    """Make an algorithm of *func*, plain or async.

    It gets what it names: ``store``, ``train_dataset``, ``val_dataset``, ``llm_proxy``, ``adapter``,
    ``initial_resources``.

    Raises:
        TypeError: A parameter without a default has another name; the message names it.
    """
    return FunctionalAlgorithm(func)


def _wanted(function: Callable[..., Any], name: str) -> dict[str, bool]:
    """Return which of the known parameters *function* has, and whether each has a default."""
    found: dict[str, bool] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        is_optional = parameter.default is not parameter.empty
        if parameter.name in INJECTED and parameter.kind is not parameter.POSITIONAL_ONLY:
            found[parameter.name] = is_optional
        elif not is_optional:
            msg = (
                f"nothing can be injected as parameter {parameter.name!r} of the algorithm {name}; "
                f"use some of {', '.join(INJECTED)}, or give it a default"
            )
            raise TypeError(msg)
    return found
