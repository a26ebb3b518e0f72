from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from opentelemetry.trace import get_tracer_provider

from agentlightning.instrumentation import registry

SOURCE = Path(__file__).parents[3] / "src"

PLUGIN = """
from agentlightning.instrumentation.base import Instrumentor
class Plugin(Instrumentor):
    name, modules = "fake", ("fakelib", "otherlib")
    def _install(self, tracer_provider):
        import fakelib
        fakelib.hooked.append(tracer_provider)
        assert fakelib.complete
    def _remove(self):
        import fakelib
        fakelib.hooked.append("removed")
"""

PRELUDE = """
from agentlightning._internal.guard import failures
from agentlightning.instrumentation import registry
def take():
    from plugin import Plugin
    registry.register("fake", Plugin.modules, Plugin)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder on the path with a library, another one, and an instrumentor for both."""
    (tmp_path / "fakelib.py").write_text("hooked = []\nimport fakelib_part\ncomplete = True\n")
    (tmp_path / "fakelib_part.py").write_text("")
    (tmp_path / "otherlib.py").write_text("")
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return tmp_path


def run(folder: Path, script: str, **environment: str) -> str:
    """Run a program of its own and return what it prints; fails when the program does."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": f"{SOURCE}:{folder}", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_library_is_instrumented_when_its_import_is_complete(folder: Path) -> None:
    """The instrumentor runs once the module was executed to its end, and not before it is imported."""
    printed = run(
        folder,
        """
        registry.watch(lambda: "provider")
        take()
        import sys
        assert "fakelib" not in sys.modules and registry.active() == []
        import fakelib
        print(fakelib.hooked, registry.active())
        """,
    )
    assert printed == "['provider'] ['fake']"


def test_a_library_that_is_there_already_is_instrumented_at_once(folder: Path) -> None:
    """Watching catches up with what was imported before."""
    printed = run(folder, "take()\nimport fakelib\nregistry.watch(lambda: 1)\nprint(fakelib.hooked)")
    assert printed == "[1]"


def test_a_second_watch_or_trigger_does_not_instrument_again(folder: Path) -> None:
    """One instrumentor runs once, whatever triggers it."""
    printed = run(
        folder,
        "take()\nregistry.watch(lambda: 1)\nimport fakelib, otherlib\nregistry.watch(lambda: 2)\nprint(fakelib.hooked)",
    )
    assert printed == "[1]"


def test_a_reloaded_library_is_instrumented_anew(folder: Path) -> None:
    """After importlib.reload the classes are new, so the instrumentor runs again."""
    printed = run(
        folder,
        """
        import importlib
        take()
        registry.watch(lambda: 1)
        import fakelib
        before = fakelib.hooked
        importlib.reload(fakelib)
        print(before, fakelib.hooked)
        """,
    )
    assert printed == "[1] ['removed', 1]"


def test_a_failing_instrumentor_does_not_break_the_import(folder: Path) -> None:
    """The program imports what it wants; the failure is counted."""
    (folder / "fakelib.py").write_text("hooked = None\ncomplete = True\n")
    printed = run(
        folder,
        "take()\nregistry.watch(lambda: 1)\nimport fakelib\nprint(registry.active(), failures.counts())",
    )
    assert printed == "[] {'instrumentation.fake': 1}"


def test_a_module_that_fails_to_import_fails_as_it_does_alone(folder: Path) -> None:
    """The error of the module itself reaches the program, and nothing is instrumented."""
    (folder / "fakelib.py").write_text("raise RuntimeError('broken library')")
    printed = run(
        folder,
        """
        take()
        registry.watch(lambda: 1)
        try:
            import fakelib
        except RuntimeError as error:
            print(error, registry.active())
        """,
    )
    assert printed == "broken library []"


def test_the_module_looks_as_if_nobody_had_watched(folder: Path) -> None:
    """Spec, loader, source and resources are those of the ordinary import."""
    printed = run(
        folder,
        """
        import importlib.machinery, importlib.resources, importlib.util, inspect, runpy
        take()
        registry.watch(lambda: 1)
        assert importlib.util.find_spec("otherlib").origin.endswith("otherlib.py")
        import fakelib
        loader = fakelib.__spec__.loader
        assert type(loader) is importlib.machinery.SourceFileLoader and loader is fakelib.__loader__
        assert "exec_module" not in vars(loader)
        assert inspect.getsource(fakelib).startswith("hooked")
        assert runpy.run_module("otherlib")["__name__"] == "otherlib"
        print("same")
        """,
    )
    assert printed == "same"


def test_a_lazy_loader_instruments_on_first_use(folder: Path) -> None:
    """importlib.util.LazyLoader still delays the import, and the instrumentor comes after it."""
    printed = run(
        folder,
        """
        import importlib.util, sys
        take()
        registry.watch(lambda: 1)
        spec = importlib.util.find_spec("fakelib")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules["fakelib"] = module
        spec.loader.exec_module(module)
        assert registry.active() == []
        print(module.hooked, registry.active())
        """,
    )
    assert printed == "[1] ['fake']"


def test_namespace_packages_and_zip_files_are_imported_as_ever(folder: Path) -> None:
    """A watched name that is a namespace package, or a module in a zip file, imports without an error."""
    printed = run(
        folder,
        """
        import os, sys, zipfile
        folder = os.environ["PYTHONPATH"].split(":")[1]
        os.remove(os.path.join(folder, "otherlib.py"))
        os.mkdir(os.path.join(folder, "otherlib"))
        with zipfile.ZipFile(os.path.join(folder, "zipped.zip"), "w") as archive:
            archive.write(os.path.join(folder, "fakelib.py"), "fakelib.py")
        os.remove(os.path.join(folder, "fakelib.py"))
        sys.path.append(os.path.join(folder, "zipped.zip"))
        take()
        registry.watch(lambda: 1)
        import otherlib
        import fakelib
        print(fakelib.hooked, list(otherlib.__path__) != [])
        """,
    )
    assert printed == "[1] True"


def test_two_finders_that_delegate_to_each_other_do_not_recurse(folder: Path) -> None:
    """Another tool that wraps loaders the same way, before or behind us, works beside us."""
    printed = run(
        folder,
        """
        import importlib.util, sys
        class Other:
            busy = False
            def find_spec(self, name, path=None, target=None):
                if self.busy or name != "fakelib":
                    return None
                Other.busy = True
                try:
                    return importlib.util.find_spec(name)
                finally:
                    Other.busy = False
        take()
        sys.meta_path.insert(0, Other())
        registry.watch(lambda: 1)
        sys.meta_path.insert(0, Other())
        import fakelib
        print(fakelib.hooked)
        """,
    )
    assert printed == "[1]"


def test_threads_that_import_at_once_instrument_once(folder: Path) -> None:
    """Concurrent first imports neither deadlock nor instrument twice."""
    printed = run(
        folder,
        """
        import threading
        take()
        registry.watch(lambda: 1)
        start = threading.Barrier(8)
        def work(name):
            start.wait()
            __import__(name)
        threads = [threading.Thread(target=work, args=(name,)) for name in ["fakelib", "otherlib"] * 4]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        import fakelib
        print(fakelib.hooked)
        """,
    )
    assert printed == "[1]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", "['fake']"), ("fake", "['fake']"), ("openai", "[]"), ("-fake", "[]"), (" fake , -openai", "['fake']")],
)
def test_the_setting_chooses_instrumentors(folder: Path, value: str, expected: str) -> None:
    """AGL_INSTRUMENT names those to use, or with a minus those to leave out."""
    script = "take()\nregistry.watch(lambda: 1)\nimport fakelib\nprint(registry.active())"
    assert run(folder, script, AGL_INSTRUMENT=value) == expected


def test_disable_undoes_and_enable_allows_again(folder: Path) -> None:
    """A disabled instrumentor is removed at once and comes back only after enable."""
    printed = run(
        folder,
        """
        take()
        registry.watch(lambda: 1)
        import fakelib
        registry.disable("fake")
        registry.watch(lambda: 1)
        first = list(fakelib.hooked)
        registry.enable("fake")
        registry.watch(lambda: 2)
        print(first, fakelib.hooked)
        """,
    )
    assert printed == "[1, 'removed'] [1, 'removed', 2]"


def test_uninstrument_all_leaves_nothing_behind(folder: Path) -> None:
    """The finder is gone, the libraries are as before, and a second call does nothing."""
    printed = run(
        folder,
        """
        import sys
        before = list(sys.meta_path)
        from agentlightning.instrumentation import instrument_all, uninstrument_all
        take()
        instrument_all("provider")
        instrument_all("provider")
        import fakelib
        uninstrument_all()
        uninstrument_all()
        print(fakelib.hooked, sys.meta_path == before, registry.active())
        """,
    )
    assert printed == "['provider', 'removed'] True []"


def test_plugins_are_found_by_entry_point(folder: Path) -> None:
    """A distribution that names an instrumentor is taken up once a watched library was imported."""
    info = folder / "agl_fake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agl-fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[agentlightning.instrumentors]\nfake = plugin:Plugin\n")
    (folder / "openai.py").write_text("__version__ = '0'")
    printed = run(
        folder,
        """
        registry.disable("openai")
        registry.watch(lambda: 1)
        import fakelib
        assert fakelib.hooked == []
        import openai
        print(fakelib.hooked, "fake" in registry.known())
        """,
    )
    assert printed == "[1] True"


def test_loading_the_registry_loads_the_standard_library_only_and_little_of_it() -> None:
    """A traced process that imports nothing of interest pays for a few small modules."""
    script = (
        "import sys; before = set(sys.modules); from agentlightning.instrumentation import registry;"
        "registry.watch(lambda: 1); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    own = {"agentlightning", "agentlightning.instrumentation", "agentlightning.instrumentation.registry"}
    assert own <= loaded
    heavy = {"logging", "dataclasses", "inspect", "asyncio", "opentelemetry", "wrapt", "importlib.metadata"}
    assert not loaded & heavy


def test_an_import_that_nobody_watches_costs_a_lookup() -> None:
    """A thousand lookups of unwatched names by the finder take less than 20 ms of processor time."""
    registry.watch(get_tracer_provider)
    try:
        finder = sys.meta_path[0]
        start = time.thread_time()
        for _ in range(1000):
            assert finder.find_spec("some.module", None) is None
        assert time.thread_time() - start < 0.02
    finally:
        registry.uninstrument_all()


def test_a_library_of_several_modules_waits_for_the_outer_one(folder: Path) -> None:
    """A module that is imported by another one of its library does not run the instrumentor in the middle of it."""
    (folder / "outer.py").write_text("import inner\nimport fakelib\nready = True\n")
    (folder / "inner.py").write_text("")
    printed = run(
        folder,
        """
        import sys
        seen = []
        class Late:
            name, modules = "late", ("inner", "outer")
            def is_wanted(self):
                return True
            def instrument(self, provider):
                seen.append(hasattr(sys.modules["outer"], "ready"))
            def uninstrument(self):
                pass
        registry.register("late", Late.modules, Late)
        registry.watch(lambda: 1)
        import outer
        print(seen)
        """,
    )
    assert printed == "[True]"
