"""A tracer that also sees model calls at the HTTP layer: of clients, and SDKs, that nobody instruments."""

from __future__ import annotations

from typing import ClassVar

from agentlightning import settings
from agentlightning._internal.guard import guard
from agentlightning.instrumentation.http import record_http
from agentlightning.instrumentation.http_call import OWN_HEADER, Choice
from agentlightning.tracer.otel import OtelTracer


class HttpTracer(OtelTracer):
    """Traces as ``OtelTracer`` does, and records calls of model APIs by httpx, httpx2, requests and aiohttp.

    A request is recorded that looks like a call of a model (chat completions, completions, responses, embeddings,
    Anthropic's messages, Google's ``generateContent``), unless an instrumented client makes it. Messages, tools,
    tokens and the end of streams are read as the program reads them; they are redacted and cut like all else. Clients
    stay instrumented when the tracer is torn down, as with ``OtelTracer``.
    """

    AGENTLIGHTNING_HEADERS: ClassVar[set[str]] = {OWN_HEADER}
    """Headers by which requests of our own clients are known."""

    def __init__(
        self,
        include_headers: bool = False,  # noqa: FBT001, FBT002 - signature of the API sheet
        include_body: bool = False,  # noqa: FBT001, FBT002
        include_agentlightning_requests: bool = False,  # noqa: FBT001, FBT002
        subprocess_mode: bool = True,  # noqa: FBT001, FBT002
        subprocess_timeout: float = 3600.0,
    ) -> None:
        """Make a tracer; nothing is instrumented before ``init`` or the first ``trace_context``.

        Args:
            include_headers: Keep headers of requests and answers as ``http.request.header.*`` and
                ``http.response.header.*``; those that hold credentials never.
            include_body: Keep the bodies as they are too, at most 1 MiB of each (``http.request.body``,
                ``http.response.body``).
            include_agentlightning_requests: Record requests of our own clients as well.
            subprocess_mode: Taken for compatibility. Calls are recorded where they are made, without a process of
                their own, also in threads and tasks side by side.
            subprocess_timeout: As *subprocess_mode*, seconds.
        """
        super().__init__()
        self.include_headers = include_headers
        self.include_body = include_body
        self.include_agentlightning_requests = include_agentlightning_requests
        self.subprocess_mode = subprocess_mode
        self.subprocess_timeout = subprocess_timeout

    def _prepare(self) -> None:
        if self._ready:
            return
        with guard("tracer.http"):
            if settings.get(settings.ENABLED):
                # Of several tracers in a process the one that was made ready last says what is kept.
                record_http(Choice(self.include_headers, self.include_body, self.include_agentlightning_requests))
        super()._prepare()
