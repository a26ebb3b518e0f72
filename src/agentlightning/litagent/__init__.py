"""Agents: any function or framework agent, made traceable and runnable without a change to it."""

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it; ``typing`` takes longer than all of this

if TYPE_CHECKING:
    from agentlightning.litagent.decorator import FunctionalLitAgent, llm_rollout, prompt_rollout, rollout
    from agentlightning.litagent.litagent import LitAgent
    from agentlightning.litagent.wrapper import AgentWrapper, WrappedLitAgent, register_wrapper, wrap

__all__ = [
    "AgentWrapper",
    "FunctionalLitAgent",
    "LitAgent",
    "WrappedLitAgent",
    "llm_rollout",
    "prompt_rollout",
    "register_wrapper",
    "rollout",
    "wrap",
]

_HOMES = {
    "decorator": "FunctionalLitAgent llm_rollout prompt_rollout rollout",
    "litagent": "LitAgent",
    "wrapper": "AgentWrapper WrappedLitAgent register_wrapper wrap",
}

__getattr__, __dir__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}
)
