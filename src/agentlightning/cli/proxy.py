"""``agl run --proxy``: the model servers of a program behind our proxy, whatever language the program is written in."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning.store.url import open_store

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

OPENAI_NAMES: tuple[str, ...] = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
"""Variables by which programs are told where OpenAI's API is; the first that is set names the backend."""
OPENAI_URL = "https://api.openai.com/v1"
ANTHROPIC_NAMES: tuple[str, ...] = ("ANTHROPIC_BASE_URL",)
ANTHROPIC_URL = "https://api.anthropic.com"


@contextlib.contextmanager
def model_proxy(url: str | None, rollout_id: str, attempt_id: str, folder: Path | None) -> Generator[dict[str, str]]:
    """Serve a proxy for one attempt while the block runs, and give the variables that lead a program to it.

    Keys are the program's own: the proxy sends on what it gets. Spans are counted in *folder*, that of the run.

    Raises:
        StoreError: The store cannot be opened, or no address can be had.
    """
    # FastAPI and uvicorn take 0.4 s to load, and most runs have no proxy.
    from agentlightning.server.proxy import Backend, LLMProxy  # noqa: PLC0415 - see above

    backends = [
        Backend(_first(OPENAI_NAMES) or OPENAI_URL),
        Backend(_first(ANTHROPIC_NAMES) or ANTHROPIC_URL, anthropic=True),
    ]
    store = open_store(url, settings.get(settings.PROJECT))
    try:
        with LLMProxy(backends, store=store, ledger_folder=folder) as proxy:
            openai = proxy.as_resource(rollout_id, attempt_id).endpoint
            variables = dict.fromkeys(OPENAI_NAMES, openai)
            # Anthropic's clients add the version themselves.
            yield variables | dict.fromkeys(ANTHROPIC_NAMES, openai.removesuffix("/v1"))
    finally:
        store.close()


def _first(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
