"""What a program's text says, without running it: decorated functions, and contexts that are not closed."""

from __future__ import annotations

import ast
import inspect
import warnings
from typing import TYPE_CHECKING

from agentlightning.cli.doctor.finding import FAIL, NOTE, OK, Finding
from agentlightning.litagent.signature import analyse, detect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_DECORATORS = {"rollout": "", "llm_rollout": "llm", "prompt_rollout": "prompt_template"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def findings(files: Sequence[Path]) -> Iterator[Finding]:
    """Yield the rows about *files*; without any, how to have one looked into."""
    if not files:
        text = "names of parameters decide what a function under @rollout gets; no program was named"
        yield Finding(NOTE, "decorator", text, "agl doctor --check program.py")
    for file in files:
        try:
            tree = _parsed(file)
        except OSError as error:
            yield Finding(FAIL, "decorator", f"{file}: {error.strerror}", "name a Python file that can be read")
            continue
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
            text = f"{file}: no Python program: {error or type(error).__name__}"
            yield Finding(FAIL, "decorator", text, "name a Python file that can be read")
            continue
        yield from _decorators(file, tree)
        yield from _contexts(file, tree)


def _parsed(file: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in its texts: not what was asked
        return ast.parse(file.read_bytes(), file.name)


def _decorators(file: Path, tree: ast.Module) -> Iterator[Finding]:
    """Decorator fails: a parameter has a name that nothing is injected for."""
    looked = 0
    is_well = True
    for node in ast.walk(tree):
        if not isinstance(node, _FUNCTIONS):
            continue
        names = [_name(each) for each in node.decorator_list]
        for name in (each for each in names if each in _DECORATORS):
            looked += 1
            problem = _problem(node, _DECORATORS[name])
            if problem:
                is_well = False
                message, _, remedy = problem.partition("; ")
                text = f"{file}:{node.lineno} @{name}: {message}"
                yield Finding(FAIL, "decorator", text, remedy or "correct its parameters")
    if is_well:
        yield Finding(OK, "decorator", f"{file}: the parameters of {looked} decorated functions are right")


class _StandIn:
    """Stands for a function that is not run: it has its name and parameters, and no code."""

    def __init__(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        given, empty = node.args, inspect.Parameter.empty
        by_place = [*given.posonlyargs, *given.args]
        first_default = len(by_place) - len(given.defaults)
        parameters: list[inspect.Parameter] = []
        for place, each in enumerate(by_place):
            is_unnamed = place < len(given.posonlyargs)
            kind = inspect.Parameter.POSITIONAL_ONLY if is_unnamed else inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(inspect.Parameter(each.arg, kind, default=empty if place < first_default else None))
        for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(each.arg, kind, default=empty if default is None else None))
        self.__name__ = node.name
        self.__signature__ = inspect.Signature(parameters)

    def __call__(self) -> None:
        """Do nothing."""


def _problem(node: ast.FunctionDef | ast.AsyncFunctionDef, resource: str) -> str:
    """Return what the decorator would raise for this function; empty for nothing."""
    try:
        function = _StandIn(node)
        if resource == "llm":
            analyse(function, "llm")
        elif resource:
            analyse(function, "prompt_template")
        else:
            detect(function)
    except (ValueError, NotImplementedError) as error:
        return str(error)
    return ""


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _contexts(file: Path, tree: ast.Module) -> Iterator[Finding]:
    """Trace data missing: ``trace_context`` is called, and nobody enters what it returns."""
    entered: set[int] = set()
    calls: list[ast.Call] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.With, ast.AsyncWith)):
            entered.update(id(item.context_expr) for item in node.items)
        elif isinstance(node, ast.Call) and _name(node) in {"enter_context", "enter_async_context"}:
            entered.update(map(id, node.args))
        elif isinstance(node, ast.Call) and _name(node) == "trace_context":
            calls.append(node)
    wrong = [call for call in calls if id(call) not in entered]
    for call in wrong:
        text = f"{file}:{call.lineno}: trace_context is called without 'with': nothing closes it, nothing is stored"
        yield Finding(FAIL, "context", text, "write: with tracer.trace_context(...):")
    if calls and not wrong:
        yield Finding(OK, "context", f"{file}: {len(calls)} trace_context, each in a 'with'")
