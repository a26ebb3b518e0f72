"""Strategies: where algorithm and runners run, in threads of one process or in processes over HTTP."""

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it; ``typing`` takes longer than all of this

if TYPE_CHECKING:
    from agentlightning.execution.base import AlgorithmBundle, ExecutionError, ExecutionStrategy, RunnerBundle
    from agentlightning.execution.client_server import ClientServerExecutionStrategy
    from agentlightning.execution.events import ExecutionEvent, MultiprocessingEvent, ThreadingEvent
    from agentlightning.execution.shared_memory import SharedMemoryExecutionStrategy

__all__ = [
    "AlgorithmBundle",
    "ClientServerExecutionStrategy",
    "ExecutionError",
    "ExecutionEvent",
    "ExecutionStrategy",
    "MultiprocessingEvent",
    "RunnerBundle",
    "SharedMemoryExecutionStrategy",
    "ThreadingEvent",
]

_HOMES = {
    "base": "AlgorithmBundle ExecutionError ExecutionStrategy RunnerBundle",
    "client_server": "ClientServerExecutionStrategy",
    "events": "ExecutionEvent MultiprocessingEvent ThreadingEvent",
    "shared_memory": "SharedMemoryExecutionStrategy",
}

__getattr__, __dir__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}
)
