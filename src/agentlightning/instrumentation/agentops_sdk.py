"""What is mended in the AgentOps SDK itself, by release; each part can be put back.

======================= ======== ==================================================================================
what                    releases why
======================= ======== ==================================================================================
span exporter           0.4.19+  with OpenTelemetry 1.45 it loses every span: it reads ``_headers``, which is gone
span exporter           all      a server that is away would hold the program up for 7 s at the end of each trace
sign-in                 0.4.13-  ``agentops.init()`` raises when the server is away
                        0.4.18
frameworks              0.4.16+  ``openai`` looks like the framework ``agents`` to the SDK, and is wrapped twice; its
                                 part for langgraph fails; smolagents has a part of ours
streams                 0.4.16+  one that is left stays the current span of whatever follows
announced span          0.4.13,  its spans of OpenAI calls are not the current ones
                        0.4.14
======================= ======== ==================================================================================

With *stay*, what the SDK would send beyond this machine is answered here: sign-in, logs, spans, metrics. The spans are
in our store by then. What it sends to a server on this machine goes there.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any, cast

from agentlightning._internal.guard import guard
from agentlightning.instrumentation.agentops_call import announced
from agentlightning.instrumentation.agentops_transport import answer_here, forgive_sign_in, replace_exporters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    from opentelemetry.trace import Span

    from agentlightning.instrumentation.base import Patches

_CHAT = ".wrappers.chat"
_NEW = "agentops.instrumentation.providers.openai"
_BETWEEN = "agentops.instrumentation.openai"
_OLD = "opentelemetry.instrumentation.openai.shared.chat_wrappers"


def form() -> str | None:
    """Return which form the installed SDK has: ``0.4.16`` (and newer), ``0.4.15``, ``0.4.13`` (and 0.4.14), or None.

    Found by looking for the function that reads the answer of a chat, the newest place first: Traceloop's own
    distribution has the module of 0.4.13 too.
    """
    places = (
        ("0.4.16", _NEW + _CHAT, "handle_chat_attributes"),
        ("0.4.15", _BETWEEN + _CHAT, "handle_chat_attributes"),
        ("0.4.13", _OLD, "_handle_response"),
    )
    for name, module, function in places:
        try:
            if hasattr(importlib.import_module(module), function):
                return name
        except ImportError:
            continue
    return None


def mend(patches: Patches, found: str, *, stay: bool) -> Callable[[], None]:
    """Mend an SDK of form *found*, and with *stay* keep what it sends on this machine; return what undoes the rest.

    Raises ``ImportError`` or ``AttributeError`` for an SDK that is none of those known.
    """
    undo = _leave_out_frameworks()
    replace_exporters(patches, stay=stay)
    if stay:
        answer_here(patches)
    forgive_sign_in(patches)
    if found == "0.4.16":
        _detach_streams(patches)
    elif found == "0.4.13":
        _announce_spans(patches)
    return undo


def _leave_out_frameworks() -> Callable[[], None]:
    """Take frameworks out of the table by which the SDK chooses what it instruments."""
    library = importlib.import_module("agentops.instrumentation")
    table: dict[str, object] = library.AGENTIC_LIBRARIES
    watched = getattr(library, "TARGET_PACKAGES", None)
    unwanted = ["langgraph", "smolagents"]
    if not _is_installed("openai-agents"):
        unwanted.append("agents")
    taken = {name: table.pop(name) for name in unwanted if name in table}
    seen = cast("set[str]", watched) if isinstance(watched, set) else set[str]()  # frozen in newer releases
    seen.difference_update(taken)

    def undo() -> None:
        """Put back what was taken out, and is not there again."""
        seen.update(taken)
        for name, entry in taken.items():
            table.setdefault(name, entry)

    return undo


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


_DETACHED = object()
"""Token of a context that is not attached any more."""


class _Context:
    """OpenTelemetry's ``context`` as a module of the SDK sees it: what was detached already is not once more."""

    def __init__(self, real: ModuleType) -> None:
        self._real = real

    def detach(self, token: object) -> None:
        """Detach *token*, unless that was done when its stream began."""
        if token is not _DETACHED:
            self._real.detach(token)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def _detach_streams(patches: Patches) -> None:
    """Keep the span of a stream from being the current one while the program reads it, maybe never to its end."""
    module = importlib.import_module(_NEW + ".stream_wrapper")
    context: ModuleType = module.context_api
    patches.replace(module, "context_api", _Context(context))
    for name in ("OpenaiStreamWrapper", "OpenAIAsyncStreamWrapper", "ResponsesAPIStreamWrapper"):
        owner = getattr(module, name, None)
        if owner is not None:
            patches.replace(owner, "__init__", _detaching(owner.__init__, context))
            if hasattr(owner, "__exit__"):
                patches.replace(owner, "__exit__", _closing(owner.__exit__))
            if hasattr(owner, "__aexit__"):
                patches.replace(owner, "__aexit__", _closing_later(owner.__aexit__))
    if hasattr(module, "_create_tool_span"):
        patches.replace(module, "_create_tool_span", _below_parent(module._create_tool_span))  # noqa: SLF001 - of the SDK


def _detaching(original: Callable[..., None], context: ModuleType) -> Callable[..., None]:
    def init(self: Any, *args: object, **kwargs: object) -> None:  # noqa: ANN401 - private names of the SDK's
        """Make the wrapper of a stream, and take its span off again."""
        original(self, *args, **kwargs)
        with guard("agentops.stream"):
            context.detach(self._token)
            self._token = _DETACHED

    return init


def _closing(original: Callable[..., object]) -> Callable[..., object]:
    """Close the stream at the end of its block, as the library does and the SDK forgets."""

    def leave(self: Any, *args: object) -> object:  # noqa: ANN401 - private names of the SDK's
        """Close the stream and leave the block."""
        with guard("agentops.stream"):
            self._stream.close()
        return original(self, *args)

    return leave


def _closing_later(original: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    async def leave(self: Any, *args: object) -> object:  # noqa: ANN401 - private names of the SDK's
        """Close the stream and leave the block."""
        with guard("agentops.stream"):
            await self._stream.close()
        return await original(self, *args)

    return leave


def _below_parent(original: Callable[..., None]) -> Callable[..., None]:
    from opentelemetry.trace import use_span  # noqa: PLC0415 - not before a library is imported

    def create(parent: Span, *args: object, **kwargs: object) -> None:
        """Make the span of a tool with *parent* as the current one."""
        with use_span(parent, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            original(parent, *args, **kwargs)

    return create


def _announce_spans(patches: Patches) -> None:
    """Say which span the request that follows belongs to."""
    for name in (_OLD, _OLD.replace("chat", "completion")):
        module = sys.modules.get(name) or importlib.import_module(name)
        patches.replace(module, "_handle_request", _announcing(module._handle_request))  # noqa: SLF001 - of the SDK


def _announcing(original: Callable[..., object]) -> Callable[..., object]:
    def handle_request(span: Span, *args: object, **kwargs: object) -> object:
        """Announce *span* and go on as the SDK does."""
        announced.set(span)  # here, and not in the coroutine that comes back: it may run in a context of its own
        return original(span, *args, **kwargs)

    return handle_request
