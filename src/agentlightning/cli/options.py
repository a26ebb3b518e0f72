"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def store_options(function: F) -> F:
    """Add ``--store`` and ``--project``."""
    store = click.option("--store", metavar="URL", help="Store or file; default: AGL_STORE, else the user's own.")
    project = click.option("--project", metavar="NAME", help="Project; default: AGL_PROJECT, else 'default'.")
    return store(project(function))
