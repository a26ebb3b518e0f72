from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from openai import OpenAI

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from agentlightning.testing import ModelServer


@pytest.fixture
def connect() -> Generator[Callable[..., OpenAI]]:
    """Return a function that starts a model server and gives a client of it; both are closed after the test."""
    with ExitStack() as stack:

        def start(server: ModelServer, *, max_retries: int = 0) -> OpenAI:
            stack.enter_context(server)
            return stack.enter_context(OpenAI(base_url=server.url, api_key="sk-testing", max_retries=max_retries))

        yield start
