"""A proxy in front of model servers that records each call: for agents in any language, without touching them."""

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it

if TYPE_CHECKING:
    from agentlightning.server.proxy.backend import Backend
    from agentlightning.server.proxy.proxy import LLMProxy

__all__ = ["Backend", "LLMProxy"]

__getattr__, __dir__ = lazy_names(__name__, {"Backend": f"{__name__}.backend", "LLMProxy": f"{__name__}.proxy"})
