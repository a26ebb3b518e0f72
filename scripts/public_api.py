"""Print the public names of the package and how they are called; ``--write`` keeps them as what the tests expect.

Public is what ``__all__`` of the root and of its packages names. A change of the kept file is a change for users:
it belongs into CHANGELOG.md.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

KEPT = Path(__file__).parents[1] / "tests/unit/project/public_api.txt"
ROOT = "agentlightning"


def public_modules() -> Iterator[ModuleType]:
    """Yield the root and every public package below it that has an ``__all__``."""
    root = importlib.import_module(ROOT)
    yield root
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda info: info.name):
        if info.ispkg and not info.name.startswith("_"):
            module = importlib.import_module(f"{ROOT}.{info.name}")
            if hasattr(module, "__all__"):
                yield module


def describe(name: str, value: object) -> Iterator[str]:
    """Yield one line for *value*, and one for each public attribute when it is a class of ours."""
    if not inspect.isclass(value) or isinstance(value, GenericAlias) or value.__module__ == "typing":
        # Constants and aliases of types have no more than their name: how they print depends on the Python.
        yield f"{name}{_parameters(value) if inspect.isroutine(value) else ''}"
        return
    yield f"class {name}"
    ours = [base for base in value.__mro__ if base.__module__.partition(".")[0] == ROOT]
    for attribute in sorted({key for base in ours for key in (*vars(base), *inspect.get_annotations(base))}):
        if attribute == "__init__":
            yield f"    {attribute}{_parameters(value.__init__)}"
        elif not attribute.startswith(("_", "model_")):
            found: object = inspect.getattr_static(value, attribute, None)
            method = getattr(found, "__func__", found)  # of a classmethod or staticmethod
            yield f"    {attribute}{_parameters(method) if inspect.isfunction(method) else ''}"


def _parameters(function: object) -> str:
    """Return the parameters by name, ``=`` marking those that have a default; annotations may become better."""
    try:
        signature = inspect.signature(function)  # type: ignore[arg-type] - anything may be asked; what cannot answer raises
    except (TypeError, ValueError):
        return "(...)"
    plain: list[str] = []
    for parameter in signature.parameters.values():
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.kind is parameter.KEYWORD_ONLY and not any(part.startswith("*") for part in plain):
            plain.append("*")
        plain.append(f"{star}{parameter.name}{'' if parameter.default is parameter.empty else '='}")
    return f"({', '.join(plain)})"


def dump() -> str:
    """Return the whole public surface as text; what a package offers again is named, not described again."""
    lines: list[str] = []
    described: dict[int, str] = {}
    for module in public_modules():
        lines.append(f"# {module.__name__}")
        for name in sorted(module.__all__):
            value, full_name = getattr(module, name), f"{module.__name__}.{name}"
            first = described.setdefault(id(value), full_name)
            lines.extend(describe(full_name, value) if first == full_name else [f"{full_name} is {first}"])
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        KEPT.write_text(dump(), encoding="utf-8")
    else:
        sys.stdout.write(dump())
