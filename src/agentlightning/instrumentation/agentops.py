"""The AgentOps SDK, 0.4.13 to 0.4.21: its spans get token ids, and none is lost, doubled or sent away unasked.

``instrument_agentops`` mends the SDK (see ``agentops_sdk``) and lets the part for OpenAI (see ``openai``) add to the
spans that the SDK makes of calls (see ``agentops_call``). Calls that the SDK does not see (``parse``, responses, with
openai from 1.92 on) get spans of our own. The SDK may be initialised before or after.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning._internal.guard import guard
from agentlightning.instrumentation import registry
from agentlightning.instrumentation.agentops_server import AgentOpsServerManager
from agentlightning.instrumentation.base import Instrumentor, Patches

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import TracerProvider

__all__ = ["AgentOpsInstrumentor", "AgentOpsServerManager", "instrument_agentops", "uninstrument_agentops"]

log = logging.getLogger("agentlightning.agentops")


class AgentOpsInstrumentor(Instrumentor):
    """Makes the AgentOps SDK keep its spans whole; runs when ``agentops`` was imported.

    Where libraries are watched, so that whoever watches keeps the spans, nothing that the SDK sends leaves this machine
    while ``AGL_AGENTOPS_MODE`` is ``LOCAL``; in the other modes it goes to the service that the program names, else to
    the one of our settings.
    """

    name = "agentops"
    modules = ("agentops",)

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._patches = Patches()
        self._undo: Callable[[], None] | None = None
        self._started_openai = False

    def _install(self, tracer_provider: TracerProvider) -> None:
        from agentlightning.instrumentation import agentops_sdk, agentops_transport  # noqa: PLC0415 - where the SDK is

        del tracer_provider  # the SDK has its own
        found = agentops_sdk.form()
        if found is None:
            log.error("this release of the AgentOps SDK is not known (0.4.13 to 0.4.21 are): no token ids in its spans")
            return
        is_local = settings.get(settings.AGENTOPS_MODE) == "LOCAL"
        self._undo = agentops_sdk.mend(self._patches, found, stay=registry.is_watching() and is_local)
        if registry.is_watching() and not is_local:
            agentops_transport.configure_service(self._patches)
        self._follow_openai()

    def _follow_openai(self) -> None:
        """Instrument openai as well: now, or as soon as the SDK does."""
        library = importlib.import_module("agentops.instrumentation")
        original: Callable[..., object] = library.instrument_one

        def instrument_one(*args: object, **kwargs: object) -> object:
            """Instrument one library as the SDK does, and openai by our part as well once it is there."""
            result = original(*args, **kwargs)
            with guard("agentops.openai"):
                self._start_openai()
            return result

        self._patches.replace(library, "instrument_one", instrument_one)
        self._start_openai()

    def _start_openai(self) -> None:
        if "openai" in sys.modules and hasattr(sys.modules["openai"], "OpenAI") and registry.start("openai"):
            self._started_openai = True

    def _remove(self) -> None:
        self._patches.restore()
        if self._undo is not None:
            self._undo()
            self._undo = None
        if self._started_openai:
            self._started_openai = False
            if not registry.is_watching():
                registry.stop("openai")


def instrument_agentops() -> bool:
    """Mend the AgentOps SDK and add token ids to its spans; tell whether that is so now. A second call does nothing.

    Without the SDK, or with a release that is not known, nothing happens and the log says so. Thread-safe.
    """
    try:
        importlib.import_module("agentops")
    except ImportError:
        log.error("the AgentOps SDK is not installed; pip install 'agentlightning[agentops]'")  # noqa: TRY400 - the reason is plain
        return False
    registry.start(AgentOpsInstrumentor.name)
    from agentlightning.instrumentation import agentops_sdk  # noqa: PLC0415 - where the SDK is

    return registry.is_active(AgentOpsInstrumentor.name) and agentops_sdk.form() is not None


def uninstrument_agentops() -> None:
    """Put the SDK back as it was; what it has made already, such as its exporter, stays. A second call does nothing."""
    registry.stop(AgentOpsInstrumentor.name)
