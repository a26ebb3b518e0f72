"""Algorithms: what decides which tasks run with which resources, and learns from the spans."""

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it; ``typing`` takes longer than all of this

if TYPE_CHECKING:
    from agentlightning.algorithm.apo import APO
    from agentlightning.algorithm.apo_reflection import ReflectionError
    from agentlightning.algorithm.apo_result import APOResult, APOStep
    from agentlightning.algorithm.apo_search import APOBudget
    from agentlightning.algorithm.base import Algorithm
    from agentlightning.algorithm.decorator import FunctionalAlgorithm, algo
    from agentlightning.algorithm.fast import VERL, Baseline, FastAlgorithm

__all__ = [
    "APO",
    "VERL",
    "APOBudget",
    "APOResult",
    "APOStep",
    "Algorithm",
    "Baseline",
    "FastAlgorithm",
    "FunctionalAlgorithm",
    "ReflectionError",
    "algo",
]

_HOMES = {
    "apo": "APO",
    "apo_reflection": "ReflectionError",
    "apo_result": "APOResult APOStep",
    "apo_search": "APOBudget",
    "base": "Algorithm",
    "decorator": "FunctionalAlgorithm algo",
    "fast": "VERL Baseline FastAlgorithm",
}

__getattr__, __dir__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}
)
