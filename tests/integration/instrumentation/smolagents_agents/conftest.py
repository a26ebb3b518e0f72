"""smolagents, instrumented, and what agents are built of in the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.instrumentation.smolagents import SmolagentsInstrumentor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def instrumented(spans: Any) -> Iterator[SmolagentsInstrumentor]:
    """The library, instrumented."""
    instrumentor = SmolagentsInstrumentor()
    instrumentor.instrument(spans.provider)
    yield instrumentor
    instrumentor.uninstrument()


@pytest.fixture
def read() -> Callable[[Any, str], dict[str, Any]]:
    """Read the attributes of the first span of a name."""

    def attributes(spans: Any, name: str) -> dict[str, Any]:
        return next(dict(span.attributes) for span in spans.all() if span.name == name)

    return attributes
