"""What a program's text says, without running it: decorated functions, and contexts that are not closed."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from agentlightning.cli.doctor.finding import FAIL, NOTE, OK, Finding
from agentlightning.litagent.signature import analyse, detect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError) as error:
            yield Finding(FAIL, "decorator", f"{file}: {error}", "name a Python file that can be read")
            continue
        yield from _decorators(file, tree)
        yield from _contexts(file, tree)


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
                message, _, remedy = problem.rpartition("; ")
                yield Finding(FAIL, "decorator", f"{file}:{node.lineno} @{name}: {message}", remedy)
    if is_well:
        yield Finding(OK, "decorator", f"{file}: the parameters of {looked} decorated functions are right")


def _problem(node: ast.FunctionDef | ast.AsyncFunctionDef, resource: str) -> str:
    """Return what the decorator would raise: a function with the same parameters and no body is given to it."""
    given = node.args
    bare = ast.arguments(
        posonlyargs=_plain(given.posonlyargs),
        args=_plain(given.args),
        vararg=None,
        kwonlyargs=_plain(given.kwonlyargs),
        kw_defaults=[None if each is None else ast.Constant(None) for each in given.kw_defaults],
        kwarg=None,
        defaults=[ast.Constant(None) for _ in given.defaults],
    )
    body = ast.Lambda(args=bare, body=ast.Constant(None))
    function: Callable[..., object] = eval(  # noqa: S307 - parameters without defaults, annotations and code
        compile(ast.fix_missing_locations(ast.Expression(body)), "<parameters>", "eval"), {}
    )
    function.__name__ = node.name
    try:
        if resource == "llm":
            analyse(function, "llm")
        elif resource:
            analyse(function, "prompt_template")
        else:
            detect(function)
    except (ValueError, NotImplementedError) as error:
        return str(error)
    return ""


def _plain(parameters: list[ast.arg]) -> list[ast.arg]:
    return [ast.arg(arg=each.arg) for each in parameters]


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
