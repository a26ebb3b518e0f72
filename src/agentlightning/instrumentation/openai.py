"""OpenAI's client library, from 1.0 on: one LLM span for each request.

From 2.8 the spans are those of ``openinference-instrumentation-openai``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning.instrumentation.base import Instrumentor, Patches

if TYPE_CHECKING:
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
    from opentelemetry.trace import TracerProvider


class OpenAIInstrumentor(Instrumentor):
    """Makes the package ``openai`` write spans."""

    name = "openai"
    modules = ("openai",)

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._patches = Patches()
        self._openinference: BaseInstrumentor | None = None

    def _install(self, tracer_provider: TracerProvider) -> None:
        import openai  # noqa: PLC0415 - optional
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference  # noqa: PLC0415 - 100 ms

        # OpenInference leaves inherited methods behind as own ones; noting them first puts that right.
        for client in (openai.OpenAI, openai.AsyncOpenAI):
            self._patches.replace(client, "request", client.request)

        class _Ours(OpenInference):
            # BaseInstrumentor is a singleton, and the program may use OpenInference's own.
            _instance = None

        self._openinference = _Ours()
        self._openinference.instrument(tracer_provider=tracer_provider)

    def _remove(self) -> None:
        if self._openinference is not None:
            self._openinference.uninstrument()
            self._openinference = None
        self._patches.restore()
