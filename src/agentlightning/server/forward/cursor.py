"""How far a forwarder came, on the disk."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agentlightning._internal.private import private_folder
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.url import scheme_of, sqlite_path
from agentlightning.types.change import BEGINNING, ChangeCursor

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

log = logging.getLogger("agentlightning.forward")


class _Note(msgspec.Struct):
    """What the file holds."""

    cursor: ChangeCursor
    last: tuple[str, str] | None = None
    """Trace and span id of a span that was sent, by which a store that was replaced is noticed."""


_decode = msgspec.json.Decoder(_Note).decode
_encode = msgspec.json.Encoder().encode


class CursorFile:
    """A cursor in a file of mode 0600, replaced in one step. One forwarder at a time."""

    def __init__(self, path: Path) -> None:
        """Keep the cursor at *path*; its folder is made when the first one is written."""
        self.path = path
        self._last: tuple[str, str] | None = None
        self._lock = threading.Lock()

    @classmethod
    def beside(cls, store: LightningStore, target_url: str) -> CursorFile:
        """Return the file for what goes from *store*'s project to *target_url*.

        It lies beside the file of the store, so that it goes where the store goes; for other stores in the user's
        state directory.
        """
        url = store.url or "memory://"
        named = hashlib.blake2b(f"{store.project}\0{target_url}\0{url}".encode(), digest_size=6).hexdigest()
        if scheme_of(url) == "sqlite":
            named = hashlib.blake2b(f"{store.project}\0{target_url}".encode(), digest_size=6).hexdigest()
            path = sqlite_path(url)
            return cls(path.with_name(f"{path.name}.forward-{named}"))
        import platformdirs  # noqa: PLC0415 - for stores behind HTTP only

        folder = Path(platformdirs.user_state_dir("agentlightning", appauthor=False))
        return cls(folder / "forward" / f"{named}.json")

    async def read(self, store: LightningStore) -> ChangeCursor:
        """Return where to go on: the beginning when there is no file, or when *store* is not the one it was made for.

        A store whose span was deleted meanwhile cannot be told from another store: all of it is sent again.

        Raises:
            StoreError: The store cannot be read.
            StoreUnavailableError: The file cannot be read.
        """
        note = self._read()
        if note is None:
            return BEGINNING
        if note.last is not None and not await store.query_spans_by_key([note.last]):
            log.warning("the store is not the one that %s was made for: all of it is sent again", self.path)
            return BEGINNING
        self._last = note.last
        # The version tells two moments apart for one connection of one process only.
        return msgspec.structs.replace(note.cursor, version="")

    def _read(self) -> _Note | None:
        try:
            return _decode(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            log.warning("%s is damaged: all of the store is sent again", self.path)
            return None
        except OSError as error:
            msg = f"cannot read {self.path}: {error.strerror}; name another file with --cursor"
            raise StoreUnavailableError(msg) from error

    def write(self, cursor: ChangeCursor, last: tuple[str, str] | None = None) -> None:
        """Write *cursor*, durably; *last* is the key of a span that it covers, None for the one of the call before.

        Raises:
            StoreUnavailableError: The file cannot be written.
        """
        with self._lock:
            self._last = last or self._last
            temporary = self.path.with_name(self.path.name + ".new")
            try:
                private_folder(self.path.parent)
                place = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
                with os.fdopen(place, "wb") as file:
                    file.write(_encode(_Note(cursor, self._last)))
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path)
            except OSError as error:
                msg = f"cannot write {self.path}: {error.strerror}; name another file with --cursor"
                raise StoreUnavailableError(msg) from error
