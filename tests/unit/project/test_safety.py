"""What the package never does: run what it reads, or open a connection because it is imported."""

from __future__ import annotations

import ast
import json
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from agentlightning import settings
from agentlightning.cli.main import group
from agentlightning.errors import AgentLightningError
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[3] / "src"
FORBIDDEN = {
    "cloudpickle": None, "dill": None, "joblib": None, "jsonpickle": None, "marshal": None, "shelve": None,
    "pickle": {"load", "loads", "Unpickler"},
    "yaml": {"full_load", "full_load_all", "load", "load_all", "unsafe_load", "unsafe_load_all"},
    "builtins": {"compile", "eval", "exec"},
}  # fmt: skip
"""What runs what it reads, by module; None: all of it."""


def is_forbidden(module: str, name: str) -> bool:
    """Tell whether a name of a module may run what it reads."""
    names = FORBIDDEN.get(module.partition(".")[0], set[str]())
    return names is None or name in names


def executing(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of whatever may run code that was read; what a constant text does was not read."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, each.name) for each in names if is_forbidden(each.name, ""))
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((node.lineno, module) for each in names if is_forbidden(module, each.name))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                if is_forbidden("builtins", name) and not all(isinstance(each, ast.Constant) for each in arguments):
                    yield node.lineno, name
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                if is_forbidden(module, name):
                    yield node.lineno, f"{module}.{name}"
            case _:
                pass


def test_nothing_that_is_read_is_run() -> None:
    """No module of either package unpickles, evaluates, compiles, or loads YAML that can make objects."""
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 200
    found = [
        f"{file.relative_to(SOURCE)}:{line} {name}"
        for file in files
        for line, name in executing(ast.parse(file.read_text("utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    ["pickle.loads(x)", "from pickle import load", "import marshal", "eval(x)", "yaml.load(x)", "builtins.exec(x)"],
)
def test_it_would_be_seen(code: str) -> None:
    """The look over the sources sees what it looks for."""
    assert list(executing(ast.parse(code)))
    assert not list(
        executing(ast.parse("import pickle\nre.compile(x)\nyaml.safe_load(x)\nmodel.eval()\npickle.dumps(x)"))
    )


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        """Make the file *path*."""
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Say how it is made again: by making the file."""
        return Path.touch, (self.path,)


COLUMNS = ("attributes", "packed", "facts", "events", "links")


def test_a_planted_pickle_is_never_run(tmp_path: Path) -> None:
    """A pickle in any column of a store is damage to those who read, check and follow it, and nothing more."""
    path, trap = tmp_path / "store.db", tmp_path / "sprung"
    planted = pickle.dumps(Trap(trap))
    writer = SqliteWriter(path)
    writer.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", number) for number in range(len(COLUMNS))]))
    writer.close()
    with sqlite3.connect(path) as connection:
        for number, column in enumerate(COLUMNS, 1):
            connection.execute(f"UPDATE spans SET {column} = ? WHERE sequence_id = ?", (planted, number))
        connection.execute("UPDATE attempts SET metadata = ?", (planted,))
    connection.close()
    commands = (
        "show latest --raw", "show latest --json", "ls --json", "cost latest", "store verify", "doctor --json",
        "doctor --live --once", "export --format jsonl",
    )  # fmt: skip
    for command in commands:
        settings.forget()
        answer = CliRunner().invoke(group, [*command.split(), "--store", str(path)], standalone_mode=False)
        assert answer.exception is None or isinstance(answer.exception, (AgentLightningError, SystemExit)), command
    assert not trap.exists()
    pickle.loads(planted)
    assert trap.exists()


LISTEN = """
import json, sys
seen = []
watched = ("socket.", "subprocess.", "urllib.", "os.system")
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(watched) else None)
import importlib
for package in map(importlib.import_module, sys.argv[1:]):
    for name in package.__all__:
        getattr(package, name)
print(json.dumps(seen))
"""


def test_an_import_opens_no_connection() -> None:
    """Importing both packages and every public name opens no socket, asks no name server and starts no program."""
    command = [sys.executable, "-c", LISTEN, "agentlightning", "ai_agents", "ai_agents.telemetry"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert json.loads(answer.stdout) == []
