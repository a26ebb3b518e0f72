"""Tools by name, made for one project; functions of the program may take part by module and name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from ai_agents.lib.smolagents import load_smolagents
from ai_agents.tools.file_ops import ProjectFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


class Tool(Protocol):
    """What is used of a tool of smolagents."""

    name: str
    description: str
    inputs: dict[str, dict[str, object]]

    def __call__(self, *args: object, **kwargs: object) -> str:
        """Use it and return the result as text."""
        ...


@dataclass(frozen=True)
class _Spec:
    """What a model is told about a tool."""

    method: str
    description: str
    required: dict[str, tuple[str, str]]
    optional: dict[str, tuple[str, str]] = field(default_factory=dict[str, "tuple[str, str]"])

    def inputs(self) -> dict[str, dict[str, object]]:
        """Return the arguments in the form of smolagents."""
        found: dict[str, dict[str, object]] = {}
        for name, (kind, text) in {**self.required, **self.optional}.items():
            found[name] = {"type": kind, "description": text}
            if name in self.optional:
                found[name]["nullable"] = True
        return found


_PATH = ("string", "Path below the project's folder.")
_FOLDER = ("string", "Folder to look in, below the project's folder; default: all of it.")
_READ = _Spec(
    "file_reader",
    "Reads a file of text, or some of its lines.",
    {"path": _PATH},
    {
        "start_line": ("integer", "First line to read, counted from 1."),
        "end_line": ("integer", "Last line to read."),
    },
)
_SPECS: dict[str, _Spec] = {
    "browse_directory": _Spec("browse_directory", "Lists the entries of a folder.", {}, {"path": _FOLDER}),
    "file_search": _Spec(
        "file_search",
        "Finds files by name: a part of the path, or a pattern such as '*.py'.",
        {"pattern": ("string", "Part of the path, or a pattern with * and ?.")},
        {"path": _FOLDER},
    ),
    "text_grep": _Spec(
        "text_grep",
        "Finds the lines of files that match a regular expression.",
        {"pattern": ("string", "Regular expression of Python.")},
        {"path": _FOLDER, "file_pattern": ("string", "Look only into files of this name, such as '*.py'.")},
    ),
    "file_reader": _READ,
    "read_file_content": _Spec("file_reader", "Reads a whole file of text.", {"path": _PATH}),
    "read_file_lines": _READ,
    "file_writer": _Spec(
        "file_writer", "Writes a file of text.", {"path": _PATH, "content": ("string", "The whole new content.")}
    ),
}


def tool_names() -> list[str]:
    """Return the names of all tools, sorted."""
    return sorted(_SPECS)


def get_tool(name: str, project: str | Path = "") -> Tool:
    """Return the tool *name* for the files below *project*, default the working directory.

    Raises:
        ValueError: No such tool.
        MissingExtraError: smolagents is not installed.
    """
    spec = _SPECS.get(name)
    if spec is None:
        msg = f"there is no tool {name!r}; use one of {', '.join(tool_names())}"
        raise ValueError(msg)
    return _make(name, spec, getattr(ProjectFiles(project), spec.method))


def get_tools(wanted: Sequence[str | Mapping[str, object]], project: str | Path = "") -> list[Callable[..., object]]:
    """Return tools: each by its name, or as ``{name, module, function}`` from a module of the program.

    Raises:
        ValueError: No such tool, module or function.
    """
    found: list[Callable[..., object]] = []
    for each in wanted:
        if isinstance(each, str):
            found.append(get_tool(each, project))
        elif "module" in each:
            found.append(_from_module(each))
        else:
            found.append(get_tool(str(each.get("name")), project))
    return found


def _make(tool_name: str, spec: _Spec, function: Callable[..., str]) -> Tool:
    """Return a tool that calls *function*; the class is made here, as its parent is not there at import."""
    parent: type = load_smolagents().Tool

    def forward(self: object, *args: object, **kwargs: object) -> str:
        """Return the text that the function returns for these arguments; its errors are its own."""
        del self
        return function(*args, **kwargs)

    namespace: dict[str, object] = {
        "__doc__": spec.description,
        "__module__": __name__,
        # Its arguments are checked against `inputs`; the signature of forward() would have to be spelled out.
        "skip_forward_signature_validation": True,
        "name": tool_name,
        "description": spec.description,
        "inputs": spec.inputs(),
        "output_type": "string",
        "forward": forward,
    }
    title = "".join(part.title() for part in tool_name.split("_")) + "Tool"
    return cast("Tool", type(title, (parent,), namespace)())


def _from_module(wanted: Mapping[str, object]) -> Callable[..., object]:
    module, name = str(wanted["module"]), str(wanted.get("function") or wanted.get("name"))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        msg = f"the tool {name!r} cannot be loaded from {module}: {error}"
        raise ValueError(msg) from error
