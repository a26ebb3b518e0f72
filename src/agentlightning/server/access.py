"""Who may call: hosts, origins and tokens.

A page in a browser can send requests to a server on the same machine. A foreign ``Host`` (DNS rebinding), a foreign
``Origin`` and a cross-site request are refused on every route; a request that changes something and comes from a page
needs a token even if nobody else does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from agentlightning.errors import SettingError
from agentlightning.store import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
"""What a token allows; each one includes those before it."""

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_READING_POSTS = frozenset({"/v1/rollouts/query", "/v1/rollouts/wait", "/v1/spans/by-key", "/v1/changes"})
_ADMIN_POSTS = frozenset({"/v1/rollouts/delete", "/v1/rollouts/prune"})
_OPEN_PATHS = frozenset({"/health", "/ready"})
_OF_ALL_PROJECTS = frozenset({"/metrics"})


@dataclass(frozen=True)
class Token:
    """A token as it is kept: its hash, never itself."""

    name: str
    scope: Scope
    sha256: str
    """Hash of the token, hexadecimal."""
    expires: float | None = None
    """Seconds since the epoch; None: never."""
    project: str | None = None
    """The only project that it opens; None: all."""


@dataclass(frozen=True)
class Refusal:
    """Why a request is not served."""

    status: int
    reason: str


@dataclass(frozen=True)
class Grant:
    """What a request that is served may reach."""

    project: str | None = None
    """The only project; None: all."""


def is_loopback(host: str) -> bool:
    """Tell whether a server that listens on *host* can be reached from this machine only."""
    return host in _LOOPBACK_NAMES or _is_loopback_address(host)


def new_token(name: str, scope: Scope, expires: float | None = None, project: str | None = None) -> tuple[str, Token]:
    """Return a fresh token and what is kept of it."""
    text = "agl_" + secrets.token_urlsafe(32)
    return text, Token(name, scope, _hash(text), expires, project)


class TokenFile:
    """Tokens in a file of mode 0600, read again whenever it changes, so that one can be taken back at once."""

    def __init__(self, path: Path | None = None, tokens: Iterable[Token] = ()) -> None:
        """Use the file at *path*, or just *tokens*."""
        self._path = path
        self._tokens = list(tokens)
        self._stamp: tuple[int, int] | None = None
        self.read()

    def read(self) -> list[Token]:
        """Return the tokens as they are now.

        Raises:
            SettingError: The file cannot be read, is no list of tokens, or others may read it.
        """
        if self._path is None:
            return self._tokens
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                if status.st_mode & 0o077 and os.name == "posix":
                    msg = f"others may read {self._path}; run: chmod 600 {self._path}"
                    raise SettingError(msg)
                self._tokens = [Token(**item) for item in json.loads(self._path.read_text("utf-8"))]
                self._stamp = stamp
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, SettingError):
                raise
            msg = f"cannot read the tokens in {self._path}: {error}; make one with 'agl store token'"
            raise SettingError(msg) from error
        return self._tokens

    def add(self, token: Token) -> None:
        """Write *token* into the file, in place of one of the same name."""
        if self._path is None:
            self._tokens.append(token)
            return
        tokens = self.read() if self._path.exists() else []
        kept = [asdict(other) for other in tokens if other.name != token.name]
        temporary = self._path.with_name(self._path.name + ".new")
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump([*kept, asdict(token)], file, indent=1)
        temporary.replace(self._path)


class AccessRules:
    """Decides about each request from its method, path and headers. Thread-safe."""

    def __init__(self, host: str, tokens: TokenFile | None = None, allowed_hosts: Iterable[str] = ()) -> None:
        """Make the rules of a server that listens on *host*.

        Args:
            host: Address that it listens on.
            tokens: Who may call; None for everybody, which only a loopback address may have.
            allowed_hosts: Further names under which it is reached.

        Raises:
            SettingError: An address that others can reach, and no tokens.
        """
        if tokens is None and not is_loopback(host):
            msg = f"{host} can be reached from other machines: give --tokens FILE ('agl store token' makes one)"
            raise SettingError(msg)
        self._loopback = is_loopback(host)
        self._tokens = tokens
        own = () if self._loopback else (host, socket.gethostname(), socket.getfqdn())
        self._hosts = {name.lower() for name in (*_LOOPBACK_NAMES, *own, *allowed_hosts)}

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> Refusal | Grant:
        """Return what a request may reach, or why it is refused; *headers* have lower-case names.

        Its token is looked up once: one that is taken back a moment later opens no more than it did.
        """
        host = _host_of("//" + headers.get("host", ""))
        if not self._knows_host(host):
            return Refusal(403, "this host name is not served here; see --allow-host")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            return Refusal(403, "requests of other web sites are refused")
        if site not in {None, "same-origin", "none"}:
            return Refusal(403, "requests of other web sites are refused")
        if path in _OPEN_PATHS:
            return Grant()
        if self._tokens is None:
            changes = method not in _SAFE_METHODS
            if changes and (origin is not None or site is not None):
                return Refusal(403, "a web page may change nothing here without a token")
            return Grant()
        token = self._good_token(required_scope(method, path), headers.get("authorization", ""))
        if isinstance(token, Refusal):
            return token
        asked = unquote(headers.get(wire.PROJECT_HEADER, ""))
        if token.project is not None and (asked not in {"", token.project} or path in _OF_ALL_PROJECTS):
            return Refusal(403, "this token is bound to another project, or to one where all are asked for")
        return Grant(token.project)

    def _find(self, text: str) -> Token | None:
        hashed = _hash(text.strip())
        found: Token | None = None
        for token in self._tokens.read() if self._tokens else ():
            if hmac.compare_digest(token.sha256, hashed):  # every one is compared: no time tells which
                found = token
        return found

    def _good_token(self, scope: Scope, authorization: str) -> Refusal | Token:
        kind, _, text = authorization.partition(" ")
        if kind.lower() != "bearer" or not text:
            return Refusal(401, "a token is needed: Authorization: Bearer …, or AGL_STORE_TOKEN")
        found = self._find(text)
        if found is None or (found.expires is not None and found.expires < time.time()):
            return Refusal(401, "this token is unknown or expired")
        if SCOPES.index(found.scope) < SCOPES.index(scope):
            return Refusal(403, f"this needs a token with the scope {scope!r}")
        return found

    def _knows_host(self, host: str) -> bool:
        if host in self._hosts:
            return True
        # An attack needs a name that it can point somewhere else; an address cannot be.
        return _is_loopback_address(host) if self._loopback else _is_address(host)


def required_scope(method: str, path: str) -> Scope:
    """Return what a token must allow for a request."""
    if method in _SAFE_METHODS or path in _READING_POSTS:
        return "read"
    return "admin" if path in _ADMIN_POSTS else "write"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _host_of(netloc: str) -> str:
    try:
        return (urlsplit(netloc).hostname or "").lower()
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback_address(host: str) -> bool:
    return _is_address(host) and ip_address(host).is_loopback
