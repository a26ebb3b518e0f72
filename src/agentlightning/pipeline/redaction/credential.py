"""What names a credential, and where its value is in a text: JSON, Python dicts, headers, variables, command lines.

Only the beginning of a value is found by pattern; its end is found by scanning, so that a value has no longest length.
Long texts are looked at piece by piece: a call of the regular expression engine holds the interpreter until it returns.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

_Find = Callable[[str, "re.Match[str]"], "tuple[int, int] | None"]

_WORDS = frozenset(
    [
        "authorization",
        "cookie",
        "cookies",
        "password",
        "passwd",
        "passphrase",
        "secret",
        "secrets",
        "credential",
        "credentials",
        "apikey",
        "authtoken",
        "accesstoken",
        "refreshtoken",
        "sessiontoken",
        "idtoken",
        "bearertoken",
        "privatekey",
        "secretkey",
        "accesskey",
    ]
)
_PAIRS = frozenset(
    {
        *((first, "key") for first in ("api", "private", "secret", "access", "encryption", "signing", "subscription")),
        *(
            (first, "token")
            for first in ("access", "auth", "refresh", "bearer", "id", "session", "api", "csrf", "xsrf")
        ),
        ("set", "cookie"),
    }
)
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")

_KEYS = (
    "api-key", "apikey", "_key", "-key", ".key", "accesskey", "privatekey", "secretkey", "encryptionkey",
    "signingkey", "subscriptionkey",
)  # fmt: skip
"""In lower case, what any text holds that the rules below could change; ``token`` is the third kind."""

HINTS = (
    "cookie", "passw", "secret", "credential", "passphrase", "authorization", "authtoken",
    "token(?:[^s]|$)", *map(re.escape, _KEYS),
)  # fmt: skip
"""Patterns, without regard to case: one of them is in every text of which ``may_hold_credential`` says yes."""


@functools.lru_cache(maxsize=4096)
def names_credential(name: str) -> bool:
    """Tell whether *name* (an attribute, header, parameter or key) means that its value is a credential."""
    words = [word.lower() for word in _SPLIT.split(name) if word]
    if any(word in _WORDS for word in words):
        return True
    return any(pair in _PAIRS for pair in pairwise(words))


def may_hold_credential(lower: str) -> bool:
    """Tell whether ``find_named_values`` could find anything in a text, which is given in lower case. Quick."""
    # Written out: for a clean kilobyte a loop over all the words takes four times as long.
    if (
        "cookie" in lower
        or "passw" in lower
        or "secret" in lower
        or "credential" in lower
        or "passphrase" in lower
        or ("auth" in lower and ("authorization" in lower or "authtoken" in lower))
    ):
        return True
    if "key" in lower and any(word in lower for word in _KEYS):
        return True
    # "max_tokens" and its like are in nearly every model call, and no credential is in the plural.
    return "token" in lower and lower.count("token") != lower.count("tokens")


_PIECE = 2**15
_OVERLAP = 512
"""Longer than the longest match of any pattern below."""

_HINT = "auth|cookie|pass|secret|cred|key|token"
_NAME = rf"(?=[\w.\-]{{0,80}}(?i:{_HINT}))[\w.\-]{{2,80}}"
_OPEN = r"(?P<bracket>[\[{]\s{0,8})?b?(?P<open>\\{0,15}[\"'])"
_QUOTED = re.compile(
    rf"""(?P<quote>\\{{0,15}}["'])(?P<name>{_NAME})(?P=quote)\s{{0,8}}(?P<sign>[:=,])\s{{0,8}}{_OPEN}"""
)
"""A quoted name before a quoted value; with a comma only as the first of a tuple, ``('api-key', 'x')``."""

_PAIR = re.compile(
    rf"""(?P<quote>\\{{0,15}}["'])(?i:name|key|header)(?P=quote)\s{{0,8}}:\s{{0,8}}(?P=quote)(?P<name>{_NAME})(?P=quote)"""
    rf"""\s{{0,8}},\s{{0,8}}(?P=quote)(?i:value)(?P=quote)(?P<sign>)\s{{0,8}}:\s{{0,8}}{_OPEN}"""
)
"""``{"name": "x-api-key", "value": "x"}``."""

_BARE = re.compile(
    r"(?i:"
    r"\b(?:proxy-)?authorization\b[\"']?\s{0,8}[:=,]\s{0,8}b?[\"']?(?:bearer|basic|token|digest)\s{1,8}"
    r"|\bx-[\w\-]{0,60}(?:key|token|secret|auth)\s{0,8}:\s{0,8}"
    r"|\bapi-?key\s{0,8}:\s{0,8}(?=\S{12})"
    r"|(?<![\w\-])--(?P<flag>[\w\-]{0,60}(?:key|token|secret|passw(?:or)?d|credentials?))(?:=|\s{1,8})(?=[^\s\-])"
    r"|(?P<assigned>\b[\w.\-]{0,60}(?:key|token|secret|passw(?:or)?d))=(?=[^\s\"'&;,(){}\[\]<>]{0,300}\d)"
    r")"
    r"|\b[A-Z][A-Z0-9_]{0,80}(?:_KEY|_TOKEN|_SECRET|_PASSWORD|_PASSWD|_CREDENTIALS?)[\"']?\s{0,8}[=:]\s{0,8}[\"']?"
    r"(?=[^\s\"',;}\)]{6})"
)
"""Headers, flags, and assignments without quotes."""

_BARE_END = re.compile(r"[\s\"'`,;&}\)\]<>\\]|\Z")
_COOKIE = re.compile(r"(?i:\b(?:set-)?cookie\s{0,8}:\s{0,8})(?=[\w.\-]{1,200}=)")
_COOKIE_END = re.compile(r"[\r\n\"']|\\[rn\"']|\Z")
_QUOTE = re.compile(r"(\\*)([\"'])")
_MORE = re.compile(r"\s{0,64},\s{0,64}b?(\\*[\"'])")


def find_named_values(text: str) -> list[tuple[int, int]]:
    """Return where in *text* each value begins and ends whose name means a credential; some may overlap."""
    lower = text.lower()
    found = list(_find(text, _QUOTED, _quoted_value))
    if "value" in lower:
        found += _find(text, _PAIR, _quoted_value)
    found += _find(text, _BARE, _bare_value)
    if "cookie" in lower:
        found += _find(text, _COOKIE, _cookie)
    return found


def _find(text: str, pattern: re.Pattern[str], find: _Find) -> Iterator[tuple[int, int]]:
    place = 0
    while place < len(text):
        stop = min(len(text), place + _PIECE)
        if len(text) > _PIECE and not may_hold_credential(text[place : stop + _OVERLAP].lower()):
            place = stop
            continue
        while place < stop:
            match = pattern.search(text, place, stop + _OVERLAP)
            if match is None or match.start() >= stop:
                break
            place = match.start() + 1
            found = find(text, match)
            if found is not None and found[0] < found[1]:
                place = found[1]
                yield found
        place = max(place, stop)


def _quoted_value(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    name = match["name"]
    if not names_credential(name):
        return None
    if match["sign"] == "," and not _is_in_pair(text, match):
        return None
    bracket = (match["bracket"] or "").strip()
    if bracket == "{" and "cookie" not in name.lower():
        return None  # a schema: {"password": {"type": "string"}}
    start = end = match.end()
    end = _closing(text, start, match["open"])
    if bracket == "{":
        end = max(end, text.find("}", end) - 1)
        quote = text.rfind(match["open"], start, end + 1)
        return start, max(end, quote) if quote < 0 else quote
    while bracket:
        more = _MORE.match(text, end + len(match["open"]))
        if more is None:
            break
        end = _closing(text, more.end(), more[1])
    return start, end


_PAIR_END = re.compile(r"\s{0,8},?\s{0,8}\)|\Z")


def _is_in_pair(text: str, match: re.Match[str]) -> bool:
    """Tell whether a tuple that begins with a name has just one value more: a list of headers has several."""
    if not text[max(0, match.start() - 2) : match.start()].rstrip("b").endswith("("):
        return False
    end = _closing(text, match.end(), match["open"]) + len(match["open"])
    return _PAIR_END.match(text, min(end, len(text))) is not None


def _closing(text: str, place: int, opening: str) -> int:
    """Return where the string that begins at *place* ends: at its closing quote, or at the end of what contains it.

    In JSON that is inside of JSON the quote has one backslash before it, one level deeper three, then seven: the run of
    backslashes before a quote says on which level it is.
    """
    level = len(opening).bit_length() - 1  # 0, 1, 3, 7 backslashes
    for match in _QUOTE.finditer(text, place):
        if match[2] != opening[-1]:
            continue
        run = len(match[1])
        for _ in range(level):
            if run % 2 == 0:
                return match.start()  # a quote of an outer level: the value was cut off
            run = (run - 1) // 2
        if run % 2 == 0:
            return match.end() - len(opening)
    return len(text)


def _bare_value(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    name = match["flag"] or match["assigned"]
    if name and not names_credential(name) and name.lower() not in _BARE_NAMES:
        return None
    end = _BARE_END.search(text, match.end())
    return match.end(), end.start() if end else len(text)


_BARE_NAMES = frozenset({"token"})
"""Names that mean a credential only as a flag or in an assignment."""


def _cookie(text: str, match: re.Match[str]) -> tuple[int, int]:
    end = _COOKIE_END.search(text, match.end())
    return match.end(), end.start() if end else len(text)
