"""LangChain by the callback handler of the AgentOps SDK: chains, tools and models are spans, with no callback passed.

The SDK's handler knows what to write; when a span starts, what it lies under and when it is the current one are said
here, so that threads, tasks and several runs at once keep apart, and nothing needs ``agentops.init``: the spans go to
OpenTelemetry's global provider. LangChain and the SDK are imported when they are needed.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace

from agentlightning.instrumentation import registry
from agentlightning.instrumentation.agentops import instrument_agentops, uninstrument_agentops
from agentlightning.instrumentation.base import Patches

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from uuid import UUID

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

__all__ = ["instrument_agentops_langchain", "make_handler", "on_chain_start", "uninstrument_agentops_langchain"]

langgraph_entry = None
"""The SDK's part for langgraph, which fails with its newer releases, is taken out by ``instrument_agentops``."""

_SCOPE = "agentops"


def __getattr__(name: str) -> object:
    """Return ``original_on_chain_start``, the SDK's own method."""
    if name == "original_on_chain_start":
        return _original_on_chain_start()
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def _sdk() -> ModuleType:
    return importlib.import_module("agentops.integration.callbacks.langchain")


@lru_cache(maxsize=1)
def _original_on_chain_start() -> Callable[..., None]:
    original: Callable[..., None] = _sdk().LangchainCallbackHandler.on_chain_start
    return original


def on_chain_start(
    self: object, serialized: dict[str, object] | None, inputs: dict[str, object], **kwargs: object
) -> None:
    """Run when a chain starts: its name is that of the run where the chain itself says none."""
    known = dict(serialized or {})
    for key, source in (("name", "name"), ("id", "run_id")):
        if known.get(key) is None and kwargs.get(source) is not None:
            known[key] = str(kwargs[source])
    _original_on_chain_start()(self, known, inputs, **kwargs)


@lru_cache(maxsize=1)
def _handler_class() -> Any:  # noqa: ANN401 - a class whose base comes with the SDK
    base = _sdk().LangchainCallbackHandler

    class LightningLangchainHandler(base):
        """The SDK's handler, for any number of runs at once."""

        run_inline = True
        """In the task itself and not in an executor: the span is to be the current one there."""

        def __init__(self, tags: list[str] | None = None) -> None:
            base.__init__(self, tags=list(tags or ()), auto_session=False)
            self._lock = threading.Lock()

        def _create_span(
            self,
            operation_name: str,
            span_kind: str,
            run_id: UUID | None = None,
            attributes: dict[str, object] | None = None,
            parent_run_id: UUID | None = None,
        ) -> Span:
            named = {"agentops.span.kind": span_kind, "agentops.operation.name": operation_name}
            found = {key: value for key, value in {**(attributes or {}), **named}.items() if value is not None}
            parent: Span | None = self.active_spans.get(parent_run_id)
            if parent is None and self.tags:
                found["agentops.tags"] = list(self.tags)
            context = None if parent is None else trace.set_span_in_context(parent)
            span = trace.get_tracer(_SCOPE).start_span(
                f"{operation_name}.{span_kind}", context=context, attributes=_simple(found)
            )
            with self._lock:
                self.active_spans[run_id] = span
                self.context_tokens[run_id] = context_api.attach(trace.set_span_in_context(span))
            return span

        def _end_span(self, run_id: UUID | None) -> None:
            with self._lock:
                span: Span | None = self.active_spans.pop(run_id, None)
                token = self.context_tokens.pop(run_id, None)
                self.token_counts.pop(run_id, None)
            if span is None:
                return
            if token is not None:
                _detach(token)
            span.end()

    return LightningLangchainHandler


def _simple(attributes: dict[str, object]) -> dict[str, AttributeValue]:
    """Return *attributes* with values that OpenTelemetry takes; it would warn about the others."""
    return {
        key: value if isinstance(value, (str, bool, int, float, list)) else str(value)
        for key, value in attributes.items()
    }


def _detach(token: Any) -> None:  # noqa: ANN401 - of OpenTelemetry
    """Put the context back; a run that ends in another task or thread than it began in has nothing to put back there.

    OpenTelemetry's own ``detach`` writes a traceback into the log for that.
    """
    runtime: Any = context_api._RUNTIME_CONTEXT  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    with contextlib.suppress(ValueError, RuntimeError):
        runtime.detach(token)


def make_handler(tags: list[str] | None = None) -> Any:  # noqa: ANN401 - a handler of LangChain
    """Return a callback handler of the SDK, to be passed to LangChain; *tags* come on the outermost span of each run.

    Raises:
        ImportError: LangChain or the SDK is not installed.
    """
    return _handler_class()(tags)


class _Installed:
    """What is changed in LangChain and the SDK."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.patches = Patches()
        self.hook: object = None
        self.started_sdk = False


_installed = _Installed()


def instrument_agentops_langchain() -> None:
    """Trace chains, agents, tools and models of LangChain, and calls of OpenAI below them; once is enough.

    A handler of the SDK that the program passes itself is used in place of ours. Thread-safe.

    Raises:
        ImportError: LangChain (``langchain-core``) or the SDK is not installed.
    """
    with _installed.lock:
        if _installed.hook is not None:
            return
        handler = make_handler()
        base = _sdk().LangchainCallbackHandler
        context = importlib.import_module("langchain_core.tracers.context")
        _original_on_chain_start()
        _installed.started_sdk = not registry.is_active("agentops")
        instrument_agentops()
        hooks = _hooks(context)
        before = len(hooks)
        context.register_configure_hook(ContextVar("agentlightning_langchain", default=handler), True, base)  # noqa: FBT003 - positional there
        _installed.hook = hooks[before]
        _installed.patches.replace(base, "on_chain_start", on_chain_start)


def uninstrument_agentops_langchain() -> None:
    """Put LangChain and the SDK's handler back as they were. A second call does nothing."""
    with _installed.lock:
        hook, _installed.hook = _installed.hook, None
        if hook is None:
            return
        _installed.patches.restore()
        hooks = _hooks(importlib.import_module("langchain_core.tracers.context"))
        hooks[:] = [kept for kept in hooks if kept is not hook]
        if _installed.started_sdk:
            uninstrument_agentops()


def _hooks(context: ModuleType) -> list[object]:
    """Return LangChain's list of hooks; there is no public way to take one out."""
    found: list[object] = context._configure_hooks  # noqa: SLF001 - see above
    return found
