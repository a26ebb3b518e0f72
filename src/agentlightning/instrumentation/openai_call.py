"""One request of the OpenAI client on its way: where it goes, and what was seen of its answer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from agentlightning._internal.context import format_traceparent
from agentlightning._internal.guard import guard
from agentlightning.instrumentation.openai_output import Output
from agentlightning.instrumentation.openai_stream import tap
from agentlightning.instrumentation.openai_token import TokenCollector

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from opentelemetry.trace import Span

State = Literal["complete", "closed_early", "failed"]

current_call: ContextVar[Call | None] = ContextVar("agentlightning_openai_call", default=None)
"""The request that this task or thread is making now."""

_OWN_PROXY = re.compile(r"/rollout/[^/]+/attempt/[^/]+/")
_RAW_HEADER = "x-stainless-raw-response"
_NO_MODEL = frozenset(
    (
        "assistants", "batches", "chatkit", "containers", "conversations", "evals", "files", "fine_tuning", "models",
        "organization", "projects", "realtime", "skills", "threads", "uploads", "vector_stores", "webhooks",
    )
)  # fmt: skip
"""First part of the paths that manage something and call no model."""


class Request(NamedTuple):
    """What matters of a request before it is sent."""

    path: str
    """Such as ``/chat/completions``."""
    body: Mapping[str, object]
    calls_model: bool
    """False for requests that only manage something, such as the list of models."""
    raw: str
    """``true`` for ``with_raw_response``, ``stream`` for ``with_streaming_response``, else empty."""


def options_of(args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    """Return the options among the arguments of ``request(cast_to, options, ...)``."""
    return args[1] if len(args) > 1 else kwargs.get("options")


def read_request(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Request:
    """Read the arguments of ``request(cast_to, options, ...)``."""
    options: Any = options_of(args, kwargs)
    path = str(options.url).split("?")[0]
    parts = path.strip("/").split("/")
    # Below /responses/ID and /chat/completions/ID stored answers are managed.
    stored = (parts[0] == "responses" and len(parts) > 1) or (parts[:2] == ["chat", "completions"] and len(parts) > 2)  # noqa: PLR2004
    calls_model = str(options.method).lower() == "post" and parts[0] not in _NO_MODEL and not stored
    body = options.json_data
    headers = options.headers
    raw = ""
    if isinstance(headers, Mapping):
        for name, value in cast("Mapping[str, object]", headers).items():
            if name.lower() == _RAW_HEADER:
                raw = str(value)
    return Request(path, cast("Mapping[str, object]", body) if isinstance(body, Mapping) else {}, calls_model, raw)


class Call:
    """What was seen of one answer. The methods of ``openai_stream.Listener`` are called by whoever reads the stream."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.tokens = TokenCollector()
        self.output = Output()
        self.state: State | None = None
        """How a stream ended; None while it runs, and for a plain answer."""
        self.is_stream = False

    def watch_stream(self, stream: object) -> None:
        """Follow a stream that is about to be handed to the user."""
        tap(stream, self)
        self.is_stream = True

    def item(self, item: object) -> None:
        """Take in a chunk."""
        self.tokens.add(item)
        self.output.add(item)

    def ended(self) -> None:
        """Note that the stream was read to its end."""
        self._settle("complete")

    def failed(self, error: BaseException) -> None:
        """Note that the stream broke."""
        self._settle("failed", error)

    def closed(self) -> Awaitable[object] | None:
        """Note that the stream was left."""
        self._settle("closed_early")
        return None

    def dropped(self) -> None:
        """Note that the stream was dropped; called by the garbage collector, so nothing else may be done here."""
        if self.state is None:
            self.state = "closed_early"

    def _settle(self, state: State, error: BaseException | None = None) -> None:
        if self.state is None:
            self.state = state
            self.settled(error)

    def settled(self, error: BaseException | None) -> None:
        """Do what is to be done when the stream has come to its end, whichever."""


def lead_to(span: Span, client: object, options: object) -> None:
    """Tell our own proxy, where *client* goes to it, that its span belongs below *span*; others are told nothing."""
    context = span.get_span_context()
    if context.is_valid and _OWN_PROXY.search(str(getattr(client, "base_url", ""))):
        given: Any = getattr(options, "headers", None)
        headers = dict(cast("Mapping[str, object]", given)) if isinstance(given, Mapping) else {}
        headers.setdefault("traceparent", format_traceparent(context.trace_id, context.span_id))
        cast("Any", options).headers = headers


def is_stream(value: object) -> bool:
    """Tell whether *value* is a stream of the library, sync or async."""
    import openai  # noqa: PLC0415 - optional; it is imported whenever this is called

    return isinstance(value, (openai.Stream, openai.AsyncStream))


def parsed_now(raw: object) -> object:
    """Return what ``with_raw_response`` holds, parsed; the library keeps it, so the user gets the same object."""
    parse = getattr(raw, "parse", None)
    if parse is None or not hasattr(raw, "http_response"):
        return raw
    import openai  # noqa: PLC0415 - optional; it is imported whenever this is called

    # A body that cannot be parsed is the user's to find out; any other failure here is ours.
    with guard("openai.parse"), contextlib.suppress(ValueError, openai.OpenAIError):
        return parse()
    return None
