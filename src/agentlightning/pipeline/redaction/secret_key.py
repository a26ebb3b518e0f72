"""The key of the hashes that stand in place of credentials: equal credentials have equal hashes, in one store.

The key is random, lies beside the store, and is readable for its owner only; without it nobody can try out
credentials against a hash. ``AGL_REDACT_KEY`` gives several stores the same key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from agentlightning import settings
from agentlightning._internal.private import private_folder
from agentlightning.store.url import default_store_url, scheme_of, sqlite_path

_BYTES = 32
_HASH_BYTES = 4


class HashKey:
    """The key, made or read when the first credential is found. For one thread."""

    def __init__(self, store_url: str | None = None) -> None:
        """Use the key of the store at *store_url*, default the default store."""
        self._url = store_url
        self._key: bytes | None = None

    def hash8(self, secret: str) -> str:
        """Return 8 hexadecimal digits for *secret*, by keyed BLAKE2b."""
        if self._key is None:
            self._key = _key(self._url)
        return hashlib.blake2b(
            secret.encode("utf-8", "surrogatepass"), key=self._key, digest_size=_HASH_BYTES
        ).hexdigest()


def key_file(store_url: str | None = None) -> Path:
    """Return where the key of a store is: beside its file, for a store elsewhere in the user's data directory."""
    url = default_store_url() if store_url is None else store_url
    if scheme_of(url) == "sqlite":
        path = sqlite_path(url)
        return path.with_name(path.name + ".redact-key")
    import platformdirs  # noqa: PLC0415 - only where the store is no file

    return Path(platformdirs.user_data_dir("agentlightning", appauthor=False)) / "redact-key"


def _key(store_url: str | None) -> bytes:
    shared = settings.get(settings.REDACT_KEY)
    if shared:
        return hashlib.blake2b(shared.encode(), digest_size=_BYTES).digest()
    try:
        return read_or_make(key_file(store_url))
    except OSError:
        return secrets.token_bytes(_BYTES)  # nowhere to keep it: hashes are equal within this process only


def read_or_make(path: Path) -> bytes:
    """Return the key in *path*, made by the first of all processes that ask at the same time.

    Raises:
        OSError: It can neither be read nor made, or what is there is no key.
    """
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    private_folder(path.parent)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
        # A link to what is complete already: whoever is second finds the whole key of the first.
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not path.exists():
                temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return _read(path)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as file:
        key = file.read(_BYTES + 1)
    if len(key) != _BYTES:
        msg = f"{path} holds no key"
        raise OSError(msg)
    return key
