"""Standard operating procedures: how a supervisor goes about a kind of work, as Markdown or as a template of it.

A category is a folder with ``sop.md.j2`` or ``sop.md``: one of the folders here, or one in a folder of the program's.
Templates run in a sandbox and see their own folder only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Environment

__all__ = ["SOPManager", "get_available_sop_categories", "get_sop"]

_NAME = re.compile(r"[A-Za-z0-9_-]+")


class SOPManager:
    """The procedures in one folder. Thread-safe."""

    def __init__(self, sop_workflows_dir: str | Path | None = None) -> None:
        """Use the folders in *sop_workflows_dir*, default those of this package."""
        self.sop_workflows_dir = Path(sop_workflows_dir) if sop_workflows_dir else Path(__file__).parent
        self._jinja_envs: dict[str, Environment] = {}

    def get_available_categories(self) -> list[str]:
        """Return the names of the categories, sorted."""
        if not self.sop_workflows_dir.is_dir():
            return []
        return sorted(path.name for path in self.sop_workflows_dir.iterdir() if _file_of(path) is not None)

    def get_sop(self, category: str, values: Mapping[str, object] | None = None) -> str:
        """Return the text of a category; a template gets *values*.

        Raises:
            ValueError: No such category, or its template is wrong.
        """
        folder = self.sop_workflows_dir / category
        found = _file_of(folder) if _NAME.fullmatch(category) else None
        if found is None:
            known = ", ".join(self.get_available_categories())
            msg = f"SOP类别 '{category}' 不存在 (there is no such SOP category; there are: {known})"
            raise ValueError(msg)
        if found.suffix != ".j2":
            return found.read_text(encoding="utf-8")
        return self._render(folder, found.name, values or {})

    def _render(self, folder: Path, name: str, values: Mapping[str, object]) -> str:
        environment = self._environment(folder)
        from jinja2 import TemplateError, TemplateSyntaxError  # noqa: PLC0415 - optional, and there by now

        try:
            return str(environment.get_template(name).render(**values))
        except TemplateSyntaxError as error:
            msg = f"{folder.name}/{name}: 语法错误 (syntax error) in line {error.lineno}: {error.message}"
            raise ValueError(msg) from None
        except TemplateError as error:
            msg = f"{folder.name}/{name}: {error}"
            raise ValueError(msg) from None

    def _environment(self, folder: Path) -> Environment:
        try:
            import jinja2  # noqa: PLC0415 - optional, comes with smolagents
            from jinja2 import sandbox  # noqa: PLC0415 - see above
        except ImportError:
            extra = "smolagents"
            raise MissingExtraError(extra, "a template of a procedure") from None
        key = str(folder)
        if key not in self._jinja_envs:
            self._jinja_envs[key] = sandbox.ImmutableSandboxedEnvironment(
                loader=jinja2.FileSystemLoader(key),
                trim_blocks=True,
                lstrip_blocks=True,
                autoescape=False,  # the text is Markdown for a model, not a page
                undefined=jinja2.ChainableUndefined,
            )
        return self._jinja_envs[key]


def _file_of(folder: Path) -> Path | None:
    for name in ("sop.md.j2", "sop.md"):
        if (folder / name).is_file():
            return folder / name
    return None


def get_available_sop_categories() -> list[str]:
    """Return the categories of this package, sorted."""
    return SOPManager().get_available_categories()


def get_sop(category: str, values: Mapping[str, object] | None = None) -> str:
    """Return the text of a category of this package; see ``SOPManager.get_sop``."""
    return SOPManager().get_sop(category, values)
