"""vLLM: nothing has to be patched any more.

Servers from 0.10.2 on send token ids to a request with ``return_token_ids: true``, with older ones patched as
agent-lightning 0.1 did they send them always; the part for OpenAI reads both. The class that used to be replaced is
not the same in newer servers, so replacing it would break them.
"""

from __future__ import annotations

import logging

__all__ = ["instrument_vllm", "uninstrument_vllm"]

log = logging.getLogger("agentlightning.instrumentation")


def instrument_vllm() -> None:
    """Do nothing, and say why in the log (level INFO)."""
    log.info("vLLM from 0.10.2 on sends token ids itself: add return_token_ids=True to the request's extra_body")


def uninstrument_vllm() -> None:
    """Do nothing: nothing was changed."""
