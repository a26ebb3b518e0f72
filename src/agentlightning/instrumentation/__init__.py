"""Instrumentors: what turns calls of other libraries into spans.

``instrument_all`` and ``uninstrument_all`` are the whole public surface; both resolve on first use.
"""

# Every traced Python process imports this package before the program starts, and ``typing`` alone takes 10 ms:
# type checkers know the name, and nothing else is needed here.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from agentlightning.instrumentation.registry import instrument_all, uninstrument_all

__all__ = ["instrument_all", "uninstrument_all"]


def __getattr__(name: str) -> object:
    """Resolve a public name on first use (PEP 562)."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from agentlightning.instrumentation import registry  # noqa: PLC0415 - see above

    value = globals()[name] = getattr(registry, name)
    return value
