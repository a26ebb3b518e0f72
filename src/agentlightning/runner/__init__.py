"""Runners: what claims rollouts from a store and runs an agent on them."""

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it; ``typing`` takes longer than all of this

if TYPE_CHECKING:
    from agentlightning.runner.agent import LitAgentRunner
    from agentlightning.runner.alert import Alert
    from agentlightning.runner.base import Runner

__all__ = ["Alert", "LitAgentRunner", "Runner"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Alert": "agentlightning.runner.alert",
        "LitAgentRunner": "agentlightning.runner.agent",
        "Runner": "agentlightning.runner.base",
    },
)
