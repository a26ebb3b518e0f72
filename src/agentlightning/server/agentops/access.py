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
from agentlightning.server.access import AccessRules, Grant, Refusal, Token, TokenFile
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
        super().__init__(options.host, keys.file, options.allowed_hosts)
        self._signer = signer
        self._keys = keys
        self._require_auth = options.require_auth

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> Refusal | Grant:
        """Return what a request may reach, or why it is refused; see ``AccessRules``."""
        if path.rstrip("/") in SIGN_IN_PATHS or path == "/":
            return super().admit(method, "/health", headers)  # whoever may ask whether it is alive
        found = super().admit(method, path, headers)
        needs_ours = self._require_auth and method == "POST" and self._keys.file is None
        if isinstance(found, Grant) and needs_ours and self.claims(headers) is None:
            return Refusal(401, "a token of this server is needed: sign in")
        return found

    def claims(self, headers: Mapping[str, str]) -> Claims | None:
        """Return what the token of a request says, or None when there is none of ours or it was taken back."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        return self._claims(token) if kind.lower() == "bearer" else None

    def _claims(self, token: str) -> Claims | None:
        claims = self._signer.check(token.strip()) if token else None
        return claims if claims is not None and self._keys.knows(claims) else None

    def _find(self, text: str) -> Token | None:
        claims = self._claims(text)
        return super()._find(text) if claims is None else self._keys.entry_of(claims)


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
            return Claims(project, "")
        found = None
        for token in self.file.read():
            if hmac.compare_digest(token.sha256, _hash(key)):
                found = token
        if found is None or not _is_good(found):
            return None
        return Claims(found.project or project, found.sha256)

    def knows(self, claims: Claims) -> bool:
        """Tell whether the entry that a token was made for is still there and good."""
        return self.file is None or self.entry_of(claims) is not None

    def entry_of(self, claims: Claims) -> Token | None:
        """Return the entry that a token was made for; None when it was taken back or is over."""
        entries = self.file.read() if self.file is not None else []
        return next((token for token in entries if token.sha256 == claims.entry and _is_good(token)), None)


def _is_good(token: Token) -> bool:
    return token.expires is None or token.expires >= time.time()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _projects(text: str) -> dict[str, str]:
    pairs = (part.strip().rpartition("=") for part in text.split(",") if "=" in part)
    return {_hash(key.strip()): project.strip() for key, _, project in pairs if project.strip()}
