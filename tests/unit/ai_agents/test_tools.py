"""File tools: what they find, and that they stay in the project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ai_agents.tools import get_tool, get_tools, tool_names
from ai_agents.tools.file_ops import MAX_CHARS, MAX_RESULTS, ProjectFiles

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a secret beside it."""
    (tmp_path / "secret.txt").write_text("the secret")
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("value")
    (root / "src" / "main.py").write_text("import os\n\nvalue = 1\n")
    (root / "README.md").write_text("# Title\n")
    (root / "picture.png").write_bytes(b"\x89PNG\0\0value")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    return root


def test_finding_and_reading(project: Path) -> None:
    """Files are found by part and by pattern, lines by expression, and files are read whole and in part."""
    files = ProjectFiles(project)
    assert files.file_search("*.py") == "src/main.py"
    assert files.file_search("readme") == "README.md"
    assert files.file_search("nothing") == "nothing was found"
    assert files.text_grep("^value") == "src/main.py:3: value = 1"
    assert files.text_grep("import", file_pattern="*.md") == "nothing was found"
    assert files.text_grep("import", path="src/main.py") == "src/main.py:1: import os"
    assert files.file_reader("src/main.py") == "import os\n\nvalue = 1\n"
    assert files.file_reader("src/main.py", 3, 3) == "value = 1"
    assert files.browse_directory().splitlines()[0] == "src/"
    assert files.file_writer("new/file.txt", "a\nb") == "wrote 2 lines to new/file.txt"
    assert (project / "new" / "file.txt").read_text() == "a\nb"


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/passwd", "src/../../secret.txt", "link.txt", "a\0b", "~/x"])
def test_nothing_outside_is_reached(project: Path, path: str) -> None:
    """No path, and no link, leads out of the project, to read or to write."""
    files = ProjectFiles(project)
    for use in (files.file_reader, files.browse_directory):
        with pytest.raises(ValueError, match=r"outside|is no"):
            use(path)
    if path != "~/x":  # a folder of this name is below the project
        with pytest.raises(ValueError, match="outside"):
            files.file_writer(path, "x")
    assert "secret" not in files.text_grep("secret")
    assert (project.parent / "secret.txt").read_text() == "the secret"


def test_what_a_model_cannot_use(project: Path) -> None:
    """Binary files, wrong expressions and missing files are errors that say so; large results are cut."""
    files = ProjectFiles(project)
    for use in (
        lambda: files.file_reader("picture.png"),
        lambda: files.text_grep("("),
        lambda: files.file_reader("src"),
        lambda: files.browse_directory("README.md"),
    ):
        with pytest.raises(ValueError, match=r"no text|no regular expression|no file|no folder"):
            use()
    (project / "large.txt").write_text("x\n" * MAX_CHARS)
    assert len(files.file_reader("large.txt")) < MAX_CHARS + 100
    assert len(files.text_grep("x", "large.txt").splitlines()) == MAX_RESULTS + 1


def test_tools_by_name(project: Path) -> None:
    """Every tool is made by its name, and a function of the program by module."""
    assert {"file_search", "text_grep", "file_reader"} <= set(tool_names())
    for name in tool_names():
        tool: Any = get_tool(name, project)
        assert tool.name == name
    search: Any = get_tool("file_search", project)
    assert search("*.py") == search(pattern="*.py") == "src/main.py"
    assert search(pattern="*.py", path=None if False else ".", sanitize_inputs_outputs=True) == "src/main.py"
    (found,) = get_tools([{"name": "x", "module": "os.path", "function": "join"}])
    assert found("a", "b") == "a/b"
    with pytest.raises(ValueError, match="there is no tool 'nothing'; use one of browse_directory"):
        get_tool("nothing")
    with pytest.raises(ValueError, match="cannot be loaded"):
        get_tools([{"name": "x", "module": "no_such_module"}])
