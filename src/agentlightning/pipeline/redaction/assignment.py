"""Whether a name that something is assigned to means a credential: the test of the rule ``generic-api-key``."""

from __future__ import annotations

import re

from agentlightning.pipeline.redaction.check import has_words
from agentlightning.pipeline.redaction.credential import names_credential

_GATES = frozenset({"access", "api", "auth", "key", "credential", "creds", "passwd", "password", "secret", "token"})
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")

_OTHER = frozenset(
    {
        "alias", "aliases", "algorithm", "at", "base", "cache", "column", "count", "counts", "created", "date", "dedup",
        "digest", "endpoint", "env", "error", "event", "expires", "expiry", "field", "file", "foreign", "format",
        "hash", "hint", "id", "idempotency", "ids", "index", "input", "kind", "length", "level", "limit", "map", "mode",
        "model", "name", "names", "object", "output", "partition", "path", "pattern", "primary", "prefix", "public",
        "ref", "request", "response", "route", "routing", "row", "scope", "scopes", "session", "size", "sort", "source",
        "status", "stop", "test", "time", "trace", "type", "types", "unique", "uri", "url", "usage", "used", "user",
        "version",
    }
)  # fmt: skip
"""With one of these in it a name means something about a credential, or another kind of key."""

_DIGEST = re.compile(rb"(?:[0-9a-fA-F]{32,}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9.\-=_]+)\Z")
_DIGIT = re.compile(rb"[0-9]")
_LETTER = re.compile(rb"[A-Za-z]")


def is_secret_assignment(name: str, value: bytes) -> bool:
    """Tell whether *value*, assigned to *name*, is a credential.

    Where the name says so by itself, anything but a word is. Names such as ``key`` and ``token``, which mean other
    things too, take a value that is no digest, UUID or number.
    """
    if _DIGIT.search(value) is None or _LETTER.search(value) is None or has_words(value):
        return False
    if names_credential(name):
        return True
    words = {word.lower() for word in _SPLIT.split(name) if word}
    return bool(words & _GATES) and not words & _OTHER and _DIGEST.match(value) is None
