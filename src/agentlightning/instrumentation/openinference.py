"""Frameworks whose spans are those of OpenInference's instrumentors: LangChain, OpenAI Agents, AutoGen, LiteLLM.

Each is used where it is installed, and left alone where the program has switched it on itself. A model call that the
OpenAI client records as well is below the framework's span, and counts once (``view.tree``). What was instrumented is
put back; what a framework still holds of it writes no spans any more.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span

from agentlightning._internal.guard import guard
from agentlightning.instrumentation.base import Instrumentor, Patches
from agentlightning.instrumentation.enclosing import enclose, enclosing_context

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer, TracerProvider

log = logging.getLogger("agentlightning.instrumentation")


class _Instrumentor(Protocol):
    """What we use of an instrumentor of OpenInference."""

    def instrument(self, **options: object) -> None:
        """Wrap the library; *options* has the provider as ``tracer_provider``."""
        ...

    def uninstrument(self) -> None:
        """Put the library back."""
        ...


class _SwitchedTracer(trace.Tracer):
    """Starts spans of the real tracer until it is switched off."""

    def __init__(self, tracer: Tracer, *, encloses: bool) -> None:
        self._tracer = tracer
        self._encloses = encloses
        self.is_on = True

    def start_span(self, name: str, context: Context | None = None, *args: Any, **kwargs: Any) -> Span:  # noqa: ANN401 - as the real one has them
        """Start a span; one that does nothing once it was switched off."""
        if not self.is_on:
            return INVALID_SPAN
        parent = enclosing_context() if context is None else context
        span = self._tracer.start_span(name, parent, *args, **kwargs)
        if self._encloses:
            with guard("openinference.enclose"):
                enclose(span)
        return span

    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of OpenTelemetry
        """Start a span of the real tracer as the current one; the current one goes on when it was switched off."""
        if not self.is_on:
            return trace.use_span(INVALID_SPAN)
        return self._tracer.start_as_current_span(name, *args, **kwargs)


class _SwitchedProvider(trace.TracerProvider):
    """Gives an instrumentor of OpenInference its tracers."""

    def __init__(self, provider: TracerProvider, *, encloses: bool) -> None:
        self._provider = provider
        self._encloses = encloses
        self._tracers: list[_SwitchedTracer] = []

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:  # noqa: ANN401 - as the real one has them
        """Return a tracer that can be switched off."""
        tracer = _SwitchedTracer(self._provider.get_tracer(*args, **kwargs), encloses=self._encloses)
        self._tracers.append(tracer)
        return tracer

    def turn_off(self) -> None:
        """Start no more spans."""
        for tracer in self._tracers:
            tracer.is_on = False


class OpenInferenceInstrumentor(Instrumentor):
    """Switches one instrumentor of OpenInference on, with a tracer under it that can be switched off."""

    home: ClassVar[str]
    """Module of the instrumentor."""

    theirs: ClassVar[str]
    """Its class."""

    options: ClassVar[dict[str, object]] = {}
    """What its ``instrument`` is called with."""

    encloses: ClassVar[bool] = False
    """Whether its spans never become the current ones, so that calls below them have to find them."""

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._instrumentor: _Instrumentor | None = None
        self._provider: _SwitchedProvider | None = None

    def is_wanted(self) -> bool:
        """Tell whether OpenInference's instrumentor is installed; the log says which one is missing (level INFO)."""
        if importlib.util.find_spec("openinference") is None or importlib.util.find_spec(self.home) is None:
            package = self.home.replace(".", "-").replace("_", "-")
            log.info("%s: only its model calls are recorded; for the rest: pip install %s", self.name, package)
            return False
        return True

    def _install(self, tracer_provider: TracerProvider) -> None:
        theirs = getattr(importlib.import_module(self.home), self.theirs)
        if theirs().is_instrumented_by_opentelemetry:  # by the program; its spans come to us by the joined provider
            return
        self._provider = _SwitchedProvider(tracer_provider, encloses=self.encloses)
        # BaseInstrumentor is a singleton, and the program may use theirs.
        ours: _Instrumentor = type(self.theirs, (theirs,), {"_instance": None})()
        ours.instrument(tracer_provider=self._provider, **self.options)
        self._instrumentor = ours
        self._installed(ours)

    def _installed(self, instrumentor: object) -> None:
        """Do what is left to do once *instrumentor* is on; nothing by default."""

    def _remove(self) -> None:
        if self._provider is not None:
            self._provider.turn_off()
        instrumentor, self._instrumentor, self._provider = self._instrumentor, None, None
        if instrumentor is not None:
            instrumentor.uninstrument()


class LangChainInstrumentor(OpenInferenceInstrumentor):
    """LangChain and LangGraph: chains, agents, models, tools, retrievers.

    OpenInference is loaded with the first run: it imports much of ``langchain_core``, whose modules import each other
    in a circle, so that doing it in the middle of the program's import would fail.
    """

    name = "langchain"
    modules = ("langchain_core.callbacks.base",)
    home = "openinference.instrumentation.langchain"
    theirs = "LangChainInstrumentor"
    encloses = True

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._patches = Patches()
        self._waiting: TracerProvider | None = None
        self._manager: Any = None
        self._first_init: object = None
        self._is_outermost = False

    def _install(self, tracer_provider: TracerProvider) -> None:
        manager = importlib.import_module("langchain_core.callbacks.base").BaseCallbackManager
        original: Any = manager.__init__

        @functools.wraps(original)
        def first_init(this: object, *args: object, **kwargs: object) -> None:
            """Instrument LangChain before its first callback manager is made, then make that."""
            with guard("langchain.first_run"):
                self._begin()
            taken_off = manager.__init__ is not first_init and self._is_outermost
            (manager.__init__ if taken_off else original)(this, *args, **kwargs)

        self._waiting = tracer_provider
        self._first_init = first_init
        self._manager = manager
        self._patches.replace(manager, "__init__", first_init)

    def _begin(self) -> None:
        """Switch OpenInference on, once."""
        with self._lock:
            provider, self._waiting = self._waiting, None
            if provider is None:
                return
            # Where somebody has wrapped ours meanwhile, it stays below and passes calls through.
            self._is_outermost = self._manager.__init__ is self._first_init
            self._patches.restore()
            super()._install(provider)

    def _installed(self, instrumentor: object) -> None:
        handler = getattr(instrumentor, "_tracer", None)
        if handler is not None:
            # Otherwise asynchronous runs call it in another thread, in a copy of the context of the step.
            handler.run_inline = True

    def _remove(self) -> None:
        self._waiting = None
        super()._remove()
        self._patches.restore()


class OpenAIAgentsInstrumentor(OpenInferenceInstrumentor):
    """The OpenAI Agents SDK: runs, agents, tools, handoffs, guardrails. Its own processors stay."""

    name = "openai_agents"
    modules = ("agents",)
    home = "openinference.instrumentation.openai_agents"
    theirs = "OpenAIAgentsInstrumentor"
    options: ClassVar[dict[str, object]] = {"exclusive_processor": False}

    def is_wanted(self) -> bool:
        """Tell whether ``agents`` is the SDK too: many a program has a module of that name."""
        module = sys.modules.get("agents")
        return hasattr(module, "Runner") and hasattr(module, "set_trace_processors") and super().is_wanted()


class AutoGenInstrumentor(OpenInferenceInstrumentor):
    """AutoGen's agentchat: teams, agents, tools, and the clients of ``autogen_ext.models.openai``."""

    name = "autogen"
    modules = ("autogen_agentchat.agents", "autogen_agentchat.teams")
    home = "openinference.instrumentation.autogen_agentchat"
    theirs = "AutogenAgentChatInstrumentor"


class LiteLLMInstrumentor(OpenInferenceInstrumentor):
    """LiteLLM's functions, whichever provider they call."""

    name = "litellm"
    modules = ("litellm",)
    home = "openinference.instrumentation.litellm"
    theirs = "LiteLLMInstrumentor"
