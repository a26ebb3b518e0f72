"""Tokens that the server gives to those who sign in: JSON Web Tokens (RFC 7519), signed with HMAC-SHA256.

The SDK asks for a token once and keeps it as long as the program runs, so the key is kept over restarts of the server.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple, cast

from agentlightning._internal.private import private_folder

if TYPE_CHECKING:
    from pathlib import Path

LIFETIME_S = 400 * 86_400
_KEY_BYTES = 32
_AUDIENCE = "authenticated"


class Claims(NamedTuple):
    """What a token says."""

    project: str
    entry: str
    """Hash of the entry in the file of tokens that stood behind the key; empty where any key is taken."""


class Signer:
    """Makes and checks tokens. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        """Sign with *key*, 32 bytes."""
        self._key = key

    def sign(self, claims: Claims) -> str:
        """Return a token for *claims*; it never contains the key that somebody signed in with."""
        now = int(time.time())
        payload = {
            "aud": _AUDIENCE,
            "iat": now,
            "exp": now + LIFETIME_S,
            "project_id": claims.project,
            "project_prem_status": "pro",
            "sub": claims.entry,
        }
        text = f"{_encode(_HEADER)}.{_encode(json.dumps(payload).encode())}"
        return f"{text}.{self._signature(text)}"

    def check(self, token: str) -> Claims | None:
        """Return what *token* says, or None when it is not ours, changed or over; it does not choose the algorithm."""
        text, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(text).encode(), signature.encode()):
            return None
        try:
            payload = cast("dict[str, object]", json.loads(_decode(text.partition(".")[2])))
            if payload["aud"] != _AUDIENCE or float(cast("float", payload["exp"])) < time.time():
                return None
            return Claims(str(payload["project_id"]), str(payload["sub"]))
        except (ValueError, KeyError, TypeError):
            return None

    def _signature(self, text: str) -> str:
        return _encode(hmac.new(self._key, text.encode(), hashlib.sha256).digest())


def read_key(path: Path) -> bytes:
    """Return the key at *path*, made there with mode 0600 when it is missing; without a file one of this process."""
    try:
        private_folder(path.parent)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        if not path.exists():
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            try:
                os.link(temporary, path)  # whoever comes second takes the first one's
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        key = path.read_bytes()
    except OSError:
        return secrets.token_bytes(_KEY_BYTES)
    return key if len(key) == _KEY_BYTES else secrets.token_bytes(_KEY_BYTES)


_HEADER = b'{"alg":"HS256","typ":"JWT"}'


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
