"""The pages say what is there: links, settings, commands, options and names of code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import click
import pytest

from agentlightning import semconv, settings
from agentlightning.cli.main import group

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
DOTTED = re.compile(r"(agentlightning(?:\.\w+)+)(?:\(.*\))?\Z")
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
FOLDERS = ("src/", "tests/", "docs/", "examples/", "benchmarks/", "scripts/", ".ci/")


@pytest.fixture(params=PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def page(request: pytest.FixtureRequest) -> Path:
    """Give each page of the documentation in turn."""
    return request.param


def without_fences(path: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Return the anchors that a page's headings get."""
    headings = HEADING.findall(without_fences(path))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@lru_cache(maxsize=1)
def commands() -> dict[str, click.Command]:
    """Return every command of ``agl`` by name; the group itself is the empty name."""
    assert isinstance(group, click.Group)
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {"": group, **{name: command for name, command in found.items() if command}}


def agl_lines(path: Path) -> list[str]:
    """Return every ``agl ...`` that a page shows, in blocks or within a line, without what follows a comment."""
    text = path.read_text(encoding="utf-8")
    lines = [line for _, block in FENCE.findall(text) for line in block.splitlines()]
    lines += CODE.findall(without_fences(path))
    return [line.removeprefix("$ ").partition("  #")[0] for line in lines if re.match(r"(\$ )?agl( |\Z)", line)]


def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file, and to a heading in it."""
    broken: list[str] = []
    for link in LINK.findall(without_fences(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


def test_commands_and_options_exist(page: Path) -> None:
    """Every ``agl`` command and option that a page shows is one that the program has."""
    for line in agl_lines(page):
        words = line.split()[1:]
        if any("|" in word or word == "..." for word in words):
            words = [part for word in words for part in word.split("|")]
        name = next((word for word in words if not word.startswith("-")), "")
        assert name in commands() or not name.isalpha(), f"agl has no command {name!r}: {line}"
        command = commands().get(name, commands()[""])
        known = [*commands()[""].params, *command.params]
        if name and isinstance(command, click.Group):
            after = words[words.index(name) + 1 :]
            inner = next((word for word in after if not word.startswith("-")), "")
            assert inner in command.commands or not inner, f"agl {name} has no command {inner!r}: {line}"
            known += command.commands[inner].params if inner else []
        options = {option for parameter in known for option in (*parameter.opts, *parameter.secondary_opts)}
        # What follows the program that `agl run` starts is the program's own.
        own = line.partition(" python ")[0] if name == "run" else line
        assert set(OPTION.findall(own)) <= options | {"--help", "--version", "-m"}, line


def test_names_of_code_exist(page: Path) -> None:
    """Every ``agentlightning.x.y``, file of the tree and make target that a page names is there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for code in CODE.findall(without_fences(page)):
        if (dotted := DOTTED.match(code)) and not code.startswith(span_names()):
            assert resolves(dotted[1]), f"{code} does not exist"
        elif code.startswith(FOLDERS) and not re.search(r"[\s*<{]", code):
            assert (ROOT / code).exists(), f"{code} does not exist"
        elif made := re.match(r"make ([a-z]+)", code):
            assert re.search(rf"^{made[1]}:", makefile, re.MULTILINE), f"{code} is no target"


def span_names() -> tuple[str, ...]:
    """Return the names of spans and attributes that look like names of code, and the file that does."""
    members = [*semconv.SpanNames, *vars(semconv).values()]
    names = {str(getattr(member, "value", member)) for member in members}
    return (*(name for name in names if name.startswith("agentlightning.")), "agentlightning.db")


def resolves(dotted: str) -> bool:
    """Tell whether *dotted* is a module or a name in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_setting_is_documented() -> None:
    """``docs/settings.md`` has one row for each setting, with the default that the code has, and no other."""
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(AGL_\w+)` \| [^|]+ \| ([^|]+) \|", text, re.MULTILINE))
    table = {setting.variable: setting.default for setting in settings.all_settings()}
    assert rows.keys() == table.keys()
    for variable, default in table.items():
        shown = str(int(default)) if isinstance(default, bool) else str(default) or "empty"
        assert rows[variable].strip().strip("`") == shown, variable


def test_python_in_the_pages_is_python(page: Path) -> None:
    """Every block that is marked as Python compiles."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(block, str(page), "exec")


def test_both_readmes_show_the_same_commands() -> None:
    """The Chinese page has the commands of the English one, in the same order."""
    english, chinese = (
        [line.partition("  #")[0] for language, block in FENCE.findall(path.read_text("utf-8")) if language == "bash"
         for line in block.splitlines()]
        for path in (ROOT / "README.md", ROOT / "README.zh-CN.md")
    )  # fmt: skip
    assert english == chinese != []


def test_help_of_every_command_works() -> None:
    """Each command explains itself."""
    for name in commands():
        command = [str(Path(sys.executable).with_name("agl")), *([name] if name else []), "--help"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert answer.returncode == 0, answer.stderr
        assert "Usage: " in answer.stdout
