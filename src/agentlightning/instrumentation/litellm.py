"""LiteLLM: its calls to OpenAI-compatible servers are recorded by the part for OpenAI, token ids included.

What is left is LiteLLM's own OpenTelemetry callback, for programs that have turned it on: its spans have no token ids
by themselves. ``instrument_litellm`` adds them.
"""

from __future__ import annotations

import importlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from agentlightning._internal.guard import guard
from agentlightning.instrumentation.base import Patches

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["instrument_litellm", "uninstrument_litellm"]

log = logging.getLogger("agentlightning.instrumentation")


class _Installed:
    """What is changed in LiteLLM."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.patches = Patches()
        self.is_active = False


_installed = _Installed()


def _with_token_ids(original: Callable[..., object]) -> Callable[..., object]:
    from agentlightning.instrumentation.openai_token import TokenCollector  # noqa: PLC0415 - where LiteLLM is

    def patched_set_attributes(
        self: object,
        span: Any,  # noqa: ANN401 - of OpenTelemetry
        kwargs: object,
        response_obj: object,
    ) -> object:
        """Let LiteLLM write its attributes, then write the token ids of the answer."""
        result = original(self, span, kwargs, response_obj)
        with guard("litellm.set_attributes"):
            if response_obj is not None:
                collector = TokenCollector()
                collector.add(response_obj)
                span.set_attributes(collector.attributes())
        return result

    return patched_set_attributes


def instrument_litellm() -> None:
    """Add token ids to the spans of LiteLLM's own OpenTelemetry callback. A second call does nothing. Thread-safe.

    LiteLLM hands its callback no response ids for a stream, nor those that another LiteLLM sent: for these the spans of
    the OpenAI client alone have them. Without LiteLLM, or where its callback is none that is known, nothing is changed
    and the log says why (level INFO): calls that go through the OpenAI client are recorded all the same.
    """
    with _installed.lock:
        if _installed.is_active:
            return
        try:
            callback: Any = importlib.import_module("litellm.integrations.opentelemetry").OpenTelemetry
            original: Callable[..., object] = callback.set_attributes
        except (ImportError, AttributeError):
            log.info(
                "LiteLLM's OpenTelemetry callback is not there; its calls by the OpenAI client are recorded anyway"
            )
            return
        _installed.patches.replace(callback, "set_attributes", _with_token_ids(original))
        _installed.is_active = True


def uninstrument_litellm() -> None:
    """Put LiteLLM's callback back as it was. A second call does nothing."""
    with _installed.lock:
        _installed.patches.restore()
        _installed.is_active = False
