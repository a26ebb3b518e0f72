"""Who may call the AgentOps server, and for which project.

On a loopback address without a file of tokens every key signs in and everybody may send: SDKs from 0.4.19 on send
their first spans before they have signed in. With a file of tokens (``agl store token``) a key has to be one of them.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning.server.access import AccessRules, Refusal, Token, TokenFile, new_token
from agentlightning.server.agentops.signer import Claims

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.instrumentation.agentops_server import AgentOpsServerOptions
    from agentlightning.server.agentops.signer import Signer

SIGN_IN_PATHS = frozenset({"/v3/auth/token", "/public/v1/auth/access_token"})
"""Reached without a token: the key is in the body."""


class AgentOpsRules(AccessRules):
    """The rules of the store server, in which a token of our own making counts like the entry behind it."""

    def __init__(self, options: AgentOpsServerOptions, signer: Signer, keys: Keys) -> None:
        """Make the rules of the server that *options* describe.

        Raises:
            SettingError: Others can reach the host, and there is no file of tokens.
        """
        self._signer = signer
        self._keys = keys
        self._require_auth = options.require_auth
        # A request that may pass goes on under a token that nobody else knows, so that all other rules still hold.
        self._text, self._inner = new_token("agentops", "write")
        tokens = None if keys.file is None else _Joined(keys.file, self._inner)
        super().__init__(options.host, tokens, options.allowed_hosts)

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """Return why a request is refused, or None; see ``AccessRules``."""
        claims = self.claims(headers)
        if path.rstrip("/") in SIGN_IN_PATHS or path == "/" or claims is not None:
            headers = {**headers, "authorization": f"Bearer {self._text}"}
        elif self._require_auth and method == "POST" and self._keys.file is None:
            return super().check(method, path, headers) or Refusal(401, "a token of this server is needed: sign in")
        return super().check(method, path, headers)

    def claims(self, headers: Mapping[str, str]) -> Claims | None:
        """Return what the token of a request says, or None when there is none of ours or it was taken back."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        claims = self._signer.check(token.strip()) if kind.lower() == "bearer" and token else None
        return claims if claims is not None and self._keys.knows(claims.name) else None


class Keys:
    """Which keys sign in, and which project each means. Thread-safe."""

    def __init__(self, file: TokenFile | None, project: str) -> None:
        """Take the tokens in *file* as keys, or any key without one; *project* is the one of most."""
        self.file = file
        self._project = project
        self._projects = _projects(settings.get(settings.AGENTOPS_PROJECTS))

    def sign_in(self, key: str) -> Claims | None:
        """Return what a token for *key* says, or None when it does not sign in.

        Raises:
            SettingError: The file of tokens cannot be read.
        """
        project = self._projects.get(_hash(key), self._project)
        if self.file is None:
            return Claims(project, "") if key.strip() else None
        found = None
        for token in self.file.read():
            if hmac.compare_digest(token.sha256, _hash(key)):
                found = token
        if found is None or not _may_write(found):
            return None
        return Claims(str(getattr(found, "project", None) or project), found.name)

    def knows(self, name: str) -> bool:
        """Tell whether the entry that a token was made for is still there and good."""
        if self.file is None:
            return True
        return any(token.name == name and _may_write(token) for token in self.file.read())


class _Joined(TokenFile):
    """The tokens of a file and one more."""

    def __init__(self, file: TokenFile, more: Token) -> None:
        self._file = file
        self._more = more
        super().__init__()

    def read(self) -> list[Token]:
        """Return the tokens as they are now."""
        # Called by the constructor of the base class too.
        return [*self._file.read(), self._more]


def _may_write(token: Token) -> bool:
    return token.scope in {"write", "admin"} and (token.expires is None or token.expires >= time.time())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _projects(text: str) -> dict[str, str]:
    pairs = (part.strip().rpartition("=") for part in text.split(",") if "=" in part)
    return {_hash(key.strip()): project.strip() for key, _, project in pairs if project.strip()}
