"""OpenAI's client library, from 1.0 on: one span for each request that calls a model.

From 2.8 the spans are those of ``openinference-instrumentation-openai``, with token ids, log-probabilities and the end
of unfinished streams added; below it, and for ``with_streaming_response``, they are our own. The hooks are ``request``
of both clients, through which every resource and every form of a call goes (plain, raw, ``parse``, streams), and the
step inside it that makes the answer. What the program gets are the same objects and errors as without us.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from agentlightning.instrumentation.base import Instrumentor, Patches
from agentlightning.instrumentation.openai_openinference import ObservedProvider
from agentlightning.instrumentation.openai_request import (
    Routing,
    async_answer,
    async_request,
    sync_answer,
    sync_request,
)

if TYPE_CHECKING:
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
    from opentelemetry.trace import TracerProvider

log = logging.getLogger("agentlightning")

_OPENINFERENCE_FROM = (2, 8)
_PROCESS = "_process_response"
"""The library's own method, from 1.0 to 3.x, that turns the HTTP response of a request into its answer."""


class OpenAIInstrumentor(Instrumentor):
    """Makes the package ``openai`` write spans."""

    name = "openai"
    modules = ("openai",)

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._inner = Patches()
        self._outer = Patches()
        self._routing: Routing | None = None
        self._openinference: _OpenInference | None = None

    def _install(self, tracer_provider: TracerProvider) -> None:
        import openai  # noqa: PLC0415 - optional

        sync, asynchronous = openai.OpenAI, openai.AsyncOpenAI
        bare, bare_async = sync.request, asynchronous.request
        tracer = tracer_provider.get_tracer(__name__)
        if _version(openai.__version__) >= _OPENINFERENCE_FROM:
            for client, hook in ((sync, sync_answer), (asynchronous, async_answer)):
                # OpenInference leaves inherited methods behind as own ones; noting them first puts that right.
                self._inner.replace(client, "request", client.request)
                if hasattr(client, _PROCESS):
                    self._inner.replace(client, _PROCESS, hook(getattr(client, _PROCESS)))
                else:
                    log.warning("this release of openai has no %s: token ids are not captured", _PROCESS)
            self._openinference = _OpenInference(tracer_provider, (sync, asynchronous))
            self._routing = Routing(tracer, openinference=True, ours=self._openinference.is_ours)
        else:
            self._routing = Routing(tracer, openinference=False, ours=True)
        self._outer.replace(sync, "request", sync_request(self._routing, bare, sync.request))
        self._outer.replace(asynchronous, "request", async_request(self._routing, bare_async, asynchronous.request))

    def _remove(self) -> None:
        if self._routing is not None:
            self._routing.is_on = False
        self._outer.restore()
        if self._openinference is not None:
            self._openinference.remove()
            self._openinference = None
        self._inner.restore()


class _OpenInference:
    """OpenInference's instrumentor, with our tracer under it."""

    def __init__(self, tracer_provider: TracerProvider, clients: tuple[type, ...]) -> None:
        from openinference.instrumentation.openai import OpenAIInstrumentor as Theirs  # noqa: PLC0415 - 100 ms

        class Ours(Theirs):
            """Their instrumentor, as one of our own beside the program's."""

            # BaseInstrumentor is a singleton, and the program may use theirs.
            _instance = None

        self.is_ours = not Theirs().is_instrumented_by_opentelemetry
        self._provider = ObservedProvider(tracer_provider)
        self._instrumentor: BaseInstrumentor = Ours()
        self._clients = clients
        if self.is_ours:
            # The check of versions was made already; theirs scans all distributions.
            self._instrumentor.instrument(tracer_provider=self._provider, skip_dep_check=True)
        self._installed = self._current()

    def _current(self) -> list[object]:
        return [vars(client).get("request") for client in self._clients]

    def remove(self) -> None:
        """Take it off, unless somebody has wrapped what it set: it would take that off as well."""
        self._provider.turn_off()
        if self.is_ours and self._installed == self._current():
            self._instrumentor.uninstrument()


def _version(text: str) -> tuple[int, ...]:
    """Return major and minor number of a release."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
