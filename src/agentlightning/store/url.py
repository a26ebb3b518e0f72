"""Store URLs: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or just a path, ``memory://``, ``http://host:port``.

Several addresses of servers are separated by commas. Other schemes come from entry points of the group
``agentlightning.stores``: each names a callable that takes URL and project and returns a ``LightningStore``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning.errors import StoreUnavailableError

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.types.protocol import SpanWriter

_CREDENTIAL = re.compile(r"(://)[^/@,\s]*@")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters or more: C:\ is a path


def default_store_url() -> str:
    """Return the URL of the store for when none is named: ``AGL_STORE``, else one in the user's data directory."""
    named = settings.get(settings.STORE)
    if named:
        return canonical_url(named)
    import platformdirs  # noqa: PLC0415 - not in children, which get AGL_STORE

    return canonical_url(str(Path(platformdirs.user_data_dir("agentlightning", appauthor=False)) / "agentlightning.db"))


def canonical_url(text: str) -> str:
    """Return *text* as a URL that means the same from every directory; a plain path becomes ``sqlite:///``."""
    match = _SCHEME.match(text)
    if match is None:
        return "sqlite:///" + str(Path(text).expanduser().absolute())
    if match[1].lower() != "sqlite":
        return text
    return "sqlite:///" + str(sqlite_path(text))


def sqlite_path(url: str) -> Path:
    """Return the absolute path in a ``sqlite:///`` URL.

    Raises:
        StoreUnavailableError: The URL names a host or no path.
    """
    rest = url.split("://", 1)[1]
    if not rest.startswith("/") or rest == "/":
        msg = f"{url!r} names no file; write sqlite:///relative/path.db or sqlite:////absolute/path.db"
        raise StoreUnavailableError(msg)
    return Path(rest[1:]).expanduser().absolute()


def open_store(url: str | None = None, project: str | None = None, *, create: bool = True) -> LightningStore:
    """Open the store at *url*.

    Args:
        url: A store URL or a path; None for the default store.
        project: Project of the handle; None for ``AGL_PROJECT``.
        create: False to refuse a file that does not exist.

    Raises:
        StoreError: The store cannot be opened; the message says what to do.
    """
    url = default_store_url() if url is None else canonical_url(url)
    scheme = scheme_of(url)
    if scheme == "sqlite":
        from agentlightning.store.sql.manager import SqliteLightningStore  # noqa: PLC0415 - only the store asked for

        return SqliteLightningStore(sqlite_path(url), project=project, create=create)
    if scheme in {"http", "https"}:
        from agentlightning.store.client import LightningStoreClient  # noqa: PLC0415 - only the store asked for

        return LightningStoreClient(url, project=project)
    if scheme == "memory":
        from agentlightning.store.memory import InMemoryLightningStore  # noqa: PLC0415 - only the store asked for

        return InMemoryLightningStore(project=project)
    return _foreign_store(url, scheme, project)


def open_writer(url: str | None = None) -> SpanWriter:
    """Open the writing half of the store at *url*, which loads none of the models; arguments as in ``open_store``.

    Raises:
        StoreError: The store cannot be opened; the message says what to do.
    """
    url = default_store_url() if url is None else canonical_url(url)
    scheme = scheme_of(url)
    if scheme == "sqlite":
        from agentlightning.store.sql.writer import SqliteWriter  # noqa: PLC0415 - only the store that is asked for

        return SqliteWriter(sqlite_path(url))
    if scheme in {"http", "https"}:
        from agentlightning.store.batch_client import BatchClient  # noqa: PLC0415 - only the store that is asked for

        return BatchClient(url)
    return open_store(url)


def shown_url(url: str) -> str:
    """Return *url*, or several separated by commas, for messages: without user name and password."""
    return _CREDENTIAL.sub(r"\1", url)


def scheme_of(url: str) -> str:
    """Return the scheme of a canonical URL, in lower case."""
    return url.split("://", 1)[0].lower()


def _foreign_store(url: str, scheme: str, project: str | None) -> LightningStore:
    from importlib.metadata import entry_points  # noqa: PLC0415 - only for schemes that are not ours

    for entry in entry_points(group="agentlightning.stores"):
        if entry.name == scheme:
            store: LightningStore = entry.load()(url, project=project)
            return store
    msg = f"nothing here opens {scheme}:// stores; write sqlite:///path.db, a path, http://host:port or memory://"
    raise StoreUnavailableError(msg)
