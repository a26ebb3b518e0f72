"""Limits of size and form of the source, which reviews would otherwise have to repeat."""

from __future__ import annotations

import ast
import tokenize
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
SOURCES = ("src", "scripts", "examples", "benchmarks")
MODULE_LINES = 500
FUNCTION_LINES = 60
CLASS_LINES = 350
NESTING = 4
IGNORES_PER_1000_LINES = 1
BROAD_EXCEPTS_PER_1000_LINES = 2
# Names that say nothing about what is inside; `utils` is the one that existing programs import.
VAGUE_NAMES = {"helpers", "helper", "common", "misc", "legacy", "utils", "util"}
ALLOWED_VAGUE = {"src/agentlightning/emitter/utils.py"}
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (*FUNCTIONS, ast.ClassDef)


@lru_cache(maxsize=1)
def modules() -> dict[str, ast.Module]:
    """Return every parsed module by its path from the root."""
    paths = sorted(path for top in SOURCES for path in (ROOT / top).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def definitions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yield every function and class with ``path:line name``."""
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED):
                yield f"{path}:{node.lineno} {node.name}", node


def lines_without_docstrings(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Return how many lines a definition has, docstrings in it left out."""
    inner = [part for part in ast.walk(node) if isinstance(part, DOCUMENTED)]
    docs = [ast.get_docstring(part, clean=False) for part in inner]
    return (node.end_lineno or 0) - node.lineno + 1 - sum(doc.count("\n") + 1 for doc in docs if doc)


def depth(node: ast.AST, level: int = 0) -> int:
    """Return how deep blocks lie in each other below *node*; an ``elif`` is as deep as its ``if``."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DOCUMENTED):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        inner = level + (isinstance(child, BLOCKS) and not is_elif)
        deepest = max(deepest, depth(child, inner))
    return deepest


def public_definitions(tree: ast.Module | ast.ClassDef) -> Iterator[ast.AST]:
    """Yield what a user can reach by name in a module, or in a public class of it."""
    for node in tree.body:
        if not isinstance(node, DOCUMENTED) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
        if decorators.isdisjoint({"overload", "override", "setter", "deleter"}):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node)


def counted(word: str) -> tuple[int, int]:
    """Return how many comments below ``src`` begin with *word*, and how many lines there are."""
    found = total = 0
    for path in modules():
        if path.startswith("src/"):
            with (ROOT / path).open("rb") as stream:
                tokens = list(tokenize.tokenize(stream.readline))
            total += tokens[-1].start[0]
            found += sum(token.type == tokenize.COMMENT and token.string.startswith(word) for token in tokens)
    return found, total


def test_modules_are_short() -> None:
    """No module is longer than 500 lines."""
    sizes = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert len(sizes) > 1
    assert {path: size for path, size in sizes.items() if size > MODULE_LINES} == {}


@pytest.mark.parametrize(("kinds", "limit"), [(FUNCTIONS, FUNCTION_LINES), ((ast.ClassDef,), CLASS_LINES)])
def test_definitions_are_short(kinds: tuple[type[ast.AST], ...], limit: int) -> None:
    """No function is longer than 60 lines and no class longer than 350, docstrings left out."""
    sizes = {where: lines_without_docstrings(node) for where, node in definitions() if isinstance(node, kinds)}
    assert {where: size for where, size in sizes.items() if size > limit} == {}


def test_nesting_is_shallow() -> None:
    """No function has blocks more than four deep."""
    depths = {where: depth(node) for where, node in definitions() if isinstance(node, FUNCTIONS)}
    assert {where: level for where, level in depths.items() if level > NESTING} == {}


def test_no_global_statement() -> None:
    """No function rebinds a name of its module."""
    found = [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if type(node) is ast.Global
    ]
    assert found == []


def test_no_vague_module_names() -> None:
    """A module's name says what is in it; the one `utils` is there because programs import it."""
    vague = {path for path in modules() if not VAGUE_NAMES.isdisjoint((*Path(path).parent.parts, Path(path).stem))}
    assert vague <= ALLOWED_VAGUE


def test_everything_public_has_a_docstring() -> None:
    """Every module and every public class, function and method says what it promises."""
    bare = [path for path, tree in modules().items() if not ast.get_docstring(tree)]
    for path, tree in modules().items():
        for node in public_definitions(tree):
            assert isinstance(node, DOCUMENTED)
            if not ast.get_docstring(node):
                bare.append(f"{path}:{node.lineno} {node.name}")
    assert bare == []


def test_few_type_ignores() -> None:
    """At most one ignored type error for every 1,000 lines of source."""
    with_types, total = counted("# type: ignore")
    with_pyright, _ = counted("# pyright: ignore")
    assert with_types + with_pyright <= max(2, IGNORES_PER_1000_LINES * total / 1000)


def test_few_broad_excepts() -> None:
    """``except Exception`` is for the guard and the borders to other people's code, not for convenience."""
    source = {path: tree for path, tree in modules().items() if path.startswith("src/")}
    lines = sum(len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in source)
    broad = [
        f"{path}:{node.lineno}"
        for path, tree in source.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    ]
    assert len(broad) <= BROAD_EXCEPTS_PER_1000_LINES * lines / 1000 + 1, broad
