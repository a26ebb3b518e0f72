"""Runs an instrumentor when the library it is for was imported, and not before.

Loaded into every traced Python process before the program starts, so only the standard library is imported here, and
an import that nobody watches costs one look-up in a dict. An instrumentor that fails never breaks the program's import.
"""

from __future__ import annotations

import sys
from _thread import RLock, get_ident  # threading and typing would take 10 ms each in a child that needs neither

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from opentelemetry.trace import TracerProvider

    from agentlightning._internal.guard import Guard
    from agentlightning.instrumentation.base import Instrumentor

    ProviderSource = Callable[[], TracerProvider]

ENTRY_POINTS = "agentlightning.instrumentors"
"""Entry point group of plug-ins; read once, after the first watched library was imported."""

_HERE = "agentlightning.instrumentation."
_BUILT_IN: dict[str, tuple[tuple[str, ...], str, str]] = {
    # name: modules that trigger it, module and class of the instrumentor
    "agentops": (("agentops",), _HERE + "agentops", "AgentOpsInstrumentor"),
    "autogen": (
        ("autogen_agentchat.agents", "autogen_agentchat.teams"),
        _HERE + "openinference",
        "AutoGenInstrumentor",
    ),
    "langchain": (("langchain_core.callbacks.base",), _HERE + "openinference", "LangChainInstrumentor"),
    "litellm": (("litellm",), _HERE + "openinference", "LiteLLMInstrumentor"),
    "openai": (("openai",), _HERE + "openai", "OpenAIInstrumentor"),
    "openai_agents": (("agents",), _HERE + "openinference", "OpenAIAgentsInstrumentor"),
    "smolagents": (("smolagents",), _HERE + "smolagents", "SmolagentsInstrumentor"),
}


def _guard(place: str) -> Guard:
    from agentlightning._internal.guard import guard  # noqa: PLC0415 - logging: 10 ms that most children never need

    return guard("instrumentation." + place)


def _lazy_class(home: str, attribute: str) -> Callable[[], Instrumentor]:
    def make() -> Instrumentor:
        """Import the instrumentor's module and make it."""
        from importlib import import_module  # noqa: PLC0415 - not needed before a library is imported

        return getattr(import_module(home), attribute)()

    return make


class _Registry:
    """Which module triggers which instrumentor, and which ones run."""

    def __init__(self) -> None:
        # Held for look-ups only, never while foreign code runs: an import inside it could wait for a module
        # that another thread imports, while that thread waits for this lock.
        self.lock = RLock()
        self.source: ProviderSource | None = None
        self.triggers: dict[str, list[str]] = {}
        self.factories: dict[str, Callable[[], Instrumentor]] = {}
        self.active: dict[str, Instrumentor] = {}
        self.running: set[str] = set()
        self.executed: set[str] = set()
        self.executing: dict[int, list[str]] = {}
        """By thread the watched modules that it is importing now, the innermost last."""
        self.disabled: set[str] = set()
        self.read_plugins = False
        for name, (modules, home, attribute) in _BUILT_IN.items():
            self.add(name, modules, _lazy_class(home, attribute))

    def add(self, name: str, modules: Sequence[str], factory: Callable[[], Instrumentor]) -> None:
        """Let the import of any of *modules* run the instrumentor *name*."""
        with self.lock:
            self.factories[name] = factory
            for module in modules:
                names = self.triggers.setdefault(module, [])
                if name not in names:
                    names.append(name)

    def imported(self, module: str, *, executed: bool) -> None:
        """Run what *module* triggers; *executed* says that it was executed just now, maybe by ``importlib.reload``."""
        reloaded = executed and module in self.executed
        self.executed.add(module)
        for name in tuple(self.triggers.get(module, ())):
            with _guard(name):
                if not self.is_half_imported(name):
                    self.run(name, again=reloaded)
        # Every process imports threading: only a library is a sign that plug-ins are worth their look-up.
        if module.partition(".")[0] not in sys.stdlib_module_names:
            with _guard("plugins"):
                self.load_plugins()

    def is_half_imported(self, name: str) -> bool:
        """Tell whether this thread is in the middle of another module of the library; its end runs the instrumentor."""
        return any(name in self.triggers.get(module, ()) for module in self.executing.get(get_ident(), ()))

    def run(self, name: str, *, again: bool = False) -> None:
        """Instrument one library, unless it was left out, runs already, or another thread is at it."""
        if name in self.disabled or not is_selected(name):
            return
        with self.lock:
            if self.source is None or name in self.running or (name in self.active and not again):
                return
            source, stale = self.source, self.active.pop(name, None)
            self.running.add(name)
        try:
            if stale is not None:  # the module was reloaded: its classes are new
                stale.uninstrument()
            instrumentor = stale or self.factories[name]()
            if not instrumentor.is_wanted():
                return
            instrumentor.instrument(source())
            with self.lock:
                self.active[name] = instrumentor
        finally:
            self.running.discard(name)

    def stop(self, name: str) -> None:
        """Undo one instrumentor."""
        with self.lock:
            instrumentor = self.active.pop(name, None)
        if instrumentor is not None:
            with _guard(name):
                instrumentor.uninstrument()

    def load_plugins(self) -> None:
        """Take up the instrumentors of other distributions; those whose library is there run at once."""
        with self.lock:
            if self.read_plugins:
                return
            self.read_plugins = True
        from importlib.metadata import entry_points  # noqa: PLC0415 - 10 ms, and the scan costs more

        for point in entry_points(group=ENTRY_POINTS):
            with _guard(point.name):
                if point.name not in self.disabled and is_selected(point.name):
                    self.take(point.name, point.load())

    def take(self, name: str, factory: Callable[[], Instrumentor]) -> None:
        """Add a plug-in's instrumentor and run it when its library was imported already."""
        modules = factory().modules
        self.add(name, modules, factory)
        if any(_is_imported(module) for module in modules):
            self.run(name)


class _Finder:
    """Finder on ``sys.meta_path`` that lets the others find, and hooks the end of a watched module's execution."""

    def __init__(self, registry: _Registry) -> None:
        self._registry = registry
        self._searching: set[tuple[int, str]] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the finders behind this one give, with its loader's end hooked."""
        if name not in self._registry.triggers:
            return None
        # A finder behind us that does the same trick asks sys.meta_path again, and so asks us.
        search = (get_ident(), name)
        if search in self._searching:
            return None
        self._searching.add(search)
        try:
            spec = self._delegate(name, path, target)
        finally:
            self._searching.discard(search)
        with _guard("finder"):
            self._hook(name, spec)
        return spec

    def _delegate(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        finders = list(sys.meta_path)
        mine = finders.index(self) if self in finders else -1
        for finder in finders[mine + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                return spec
        return None

    def _hook(self, name: str, spec: ModuleSpec | None) -> None:
        """Hook ``exec_module`` of this one loader object.

        The loader stays the same object, so ``__spec__``, ``inspect.getsource``, ``importlib.resources`` and
        ``runpy`` see what they always see. Zip files share a loader among modules, hence the check of the name.
        """
        loader = spec.loader if spec is not None else None
        if loader is None or isinstance(loader, type) or not hasattr(loader, "__dict__"):
            return
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module: ModuleType) -> None:
            """Run the module's code, then turn its instrumentors on; the finder's method is left as it was."""
            self._execute(execute, module, name)
            if module.__name__ == name:
                if namespace.get("exec_module") is exec_module:
                    del namespace["exec_module"]
                self._registry.imported(name, executed=True)

        namespace = vars(loader)
        namespace["exec_module"] = exec_module

    def _execute(self, execute: Callable[[ModuleType], object], module: ModuleType, name: str) -> None:
        thread = get_ident()
        stack = self._registry.executing.setdefault(thread, [])
        stack.append(name)
        try:
            execute(module)
        finally:
            stack.pop()
            if not stack:
                self._registry.executing.pop(thread, None)


class _Watch:
    """The one finder and the registry of this process."""

    def __init__(self) -> None:
        self.registry = _Registry()
        self.finder = _Finder(self.registry)


_watch = _Watch()


def watch(provider_source: ProviderSource) -> None:
    """Instrument libraries as they are imported, and those that were imported already at once.

    *provider_source* is asked when an instrumentor runs, for the tracer provider its spans go to. A second call
    changes the source for libraries that are not instrumented yet. Thread-safe; never raises for a library's sake.
    """
    set_provider_source(provider_source)
    if _watch.finder not in sys.meta_path:
        sys.meta_path.insert(0, _watch.finder)
    for module in tuple(_watch.registry.triggers):
        if _is_imported(module):
            _watch.registry.imported(module, executed=False)


def unwatch() -> None:
    """Stop watching imports; what is instrumented stays so. A second call does nothing."""
    if _watch.finder in sys.meta_path:
        sys.meta_path.remove(_watch.finder)


def set_provider_source(provider_source: ProviderSource) -> None:
    """Say where instrumentors get their tracer provider from, without instrumenting anything."""
    _watch.registry.source = provider_source


def is_watching() -> bool:
    """Tell whether libraries are instrumented as they are imported: whoever asked for that keeps the spans."""
    return _watch.finder in sys.meta_path


def start(name: str) -> bool:
    """Instrument the library *name*, which was imported, unless it runs already; tell whether this call did it.

    Spans go to the source set before, else to OpenTelemetry's global provider. Thread-safe; never raises for a
    library's sake.
    """
    if _watch.registry.source is None:
        set_provider_source(_global_provider)
    if name in _watch.registry.active:
        return False
    with _guard(name):
        _watch.registry.run(name)
    return name in _watch.registry.active


def is_active(name: str) -> bool:
    """Tell whether the library *name* is instrumented."""
    return name in _watch.registry.active


def stop(name: str) -> None:
    """Put one library back as it was; nothing happens when it is not instrumented."""
    _watch.registry.stop(name)


def instrument_all(tracer_provider: TracerProvider | None = None) -> None:
    """Instrument every known library that was imported, and each other one when it is imported.

    Spans go to *tracer_provider*, else to the source set before, else to OpenTelemetry's global provider.
    A second call does nothing new. Thread-safe.
    """
    if tracer_provider is not None:
        watch(lambda: tracer_provider)
    else:
        watch(_watch.registry.source or _global_provider)


def uninstrument_all() -> None:
    """Stop watching and put every library back as it was. A second call does nothing. Thread-safe."""
    unwatch()
    for name in tuple(_watch.registry.active):
        _watch.registry.stop(name)


def disable(name: str) -> None:
    """Leave the instrumentor *name* out from now on; when it runs already, it is undone. Unknown names are kept."""
    _watch.registry.disabled.add(name)
    _watch.registry.stop(name)


def enable(name: str) -> None:
    """Undo ``disable``; the library is instrumented when it is imported, or at the next ``watch``."""
    _watch.registry.disabled.discard(name)


def register(name: str, modules: Sequence[str], factory: Callable[[], Instrumentor]) -> None:
    """Add an instrumentor from inside this package; it runs when one of *modules* is or was imported."""
    _watch.registry.add(name, modules, factory)
    if _watch.registry.source is not None and any(_is_imported(module) for module in modules):
        with _guard(name):
            _watch.registry.run(name)


def active() -> list[str]:
    """Return the names of the instrumentors that run now, in the order in which they started."""
    return list(_watch.registry.active)


def known() -> list[str]:
    """Return the names of all instrumentors, those of plug-ins included, sorted."""
    with _guard("plugins"):
        _watch.registry.load_plugins()
    return sorted(_watch.registry.factories)


def _is_imported(name: str) -> bool:
    """Tell whether a module was imported completely; one in the middle of it ends in the finder's hook."""
    module = sys.modules.get(name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def is_selected(name: str) -> bool:
    """Apply ``AGL_INSTRUMENT``: names to use, or with a minus in front names to leave out."""
    from agentlightning import settings  # noqa: PLC0415 - not needed before a library is imported

    words = [word.strip() for word in settings.get(settings.INSTRUMENT).split(",") if word.strip()]
    chosen = {word for word in words if not word.startswith("-")}
    return "-" + name not in words and (not chosen or name in chosen)


def _global_provider() -> TracerProvider:
    from opentelemetry.trace import get_tracer_provider  # noqa: PLC0415 - 30 ms

    return get_tracer_provider()
