"""Finds the credentials in one text: by shape, by name, and by the values of this process's environment."""

from __future__ import annotations

import bisect
import functools
import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentlightning.pipeline.redaction.credential import HINTS, find_named_values, may_hold_credential
from agentlightning.pipeline.redaction.rule import Options, active_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from agentlightning.pipeline.redaction.engine import Pattern
    from agentlightning.pipeline.redaction.scan import ValueScanner

NAMED, ENVIRONMENT = "named", "environment"
"""The rules without a pattern: a name that means a credential, a value of this process's environment."""

MARK = re.compile(r"\[REDACTED(?::[\w-]{1,100}:[0-9a-f]{8})?\]")
_ENVIRONMENT_NAME = re.compile(r"(?:_KEY|_TOKEN|_SECRET|PASSWORD|PASSWD|_CREDENTIALS?)\Z|APIKEY")
_SHORTEST_SECRET = 12
"""A value in the environment that is shorter is likely a word, and replacing it would damage texts."""

BETWEEN = "\0"
"""Stands between texts that are looked at together; no pattern of the first look reaches across it."""


class Secret(NamedTuple):
    """A credential in a text: what is replaced, by which rule, and the credential itself, whose hash is shown."""

    start: int
    end: int
    rule: str
    value: str


def environment_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of the variables whose names mean a credential and that are long enough to be one."""
    found = {
        value
        for name, value in environment.items()
        if len(value) >= _SHORTEST_SECRET and _ENVIRONMENT_NAME.search(name.upper()) and "/" not in value[:1]
    }
    # As it stands inside of JSON text, where that is different.
    found |= {msgspec.json.encode(value).decode()[1:-1] for value in found if value.isascii()}
    return tuple(sorted(found, key=len, reverse=True))


@functools.lru_cache(maxsize=4)
def _scanner(options: Options) -> ValueScanner | None:
    """Return the value layer for *options*, shared by all redactors of the process; None when it is off."""
    rules = active_rules(options)
    if not rules:
        return None
    from agentlightning.pipeline.redaction.scan import ValueScanner  # noqa: PLC0415 - engines load on first use

    return ValueScanner(rules)


@functools.lru_cache(maxsize=4)
def _first_look(options: Options) -> Pattern | None:
    """Return the first look for *options*; None where every text has to be looked at closely."""
    from agentlightning.pipeline.redaction.first_look import compile_first_look, first_look_pattern  # noqa: PLC0415 - as above

    return compile_first_look(first_look_pattern(active_rules(options), () if NAMED in _names_off(options) else HINTS))


class Finder:
    """What is looked for under some options. Thread-safe: nothing is kept but what was compiled."""

    def __init__(self, options: Options, secrets: tuple[str, ...]) -> None:
        """Look for what *options* say, and for *secrets*, values of the environment.

        Raises:
            SettingError: The options hold nonsense.
        """
        active_rules(options)
        off = _names_off(options)
        self.options = options
        self.by_name = NAMED not in off
        """Whether what stands behind the name of a credential is one."""
        self._secrets = () if ENVIRONMENT in off else secrets

    def may_hold(self, text: str) -> bool:
        """Tell whether a text has to be looked at closely; quick, and never wrong when it says no."""
        if any(secret in text for secret in self._secrets):
            return True
        look = _first_look(self.options)
        if look is None:
            return True
        data = text.encode("utf-8", "surrogatepass")
        return look.search(data, 0, len(data)) is not None

    def suspects(self, texts: Sequence[str]) -> Iterator[int]:
        """Yield the places of those *texts* of which ``may_hold`` says yes; they are looked at together."""
        look = _first_look(self.options)
        if look is None:
            yield from range(len(texts))
            return
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        starts = [0, *itertools.accumulate(len(part) + 1 for part in parts)]
        data = BETWEEN.encode().join(parts)
        known = {place for place, text in enumerate(texts) for secret in self._secrets if secret in text}
        # From the byte between two texts on: some patterns want to see what is in front of a word.
        match = look.search(data, 0, len(data))
        while match is not None:
            place = bisect.bisect_right(starts, match.span()[0] + 1) - 1
            known.add(place)
            match = look.search(data, starts[place + 1] - 1, len(data)) if place + 1 < len(parts) else None
        yield from sorted(known)

    def find(self, text: str) -> list[Secret]:
        """Return the credentials in *text*, in order and without overlap."""
        if not self.may_hold(text):
            return []
        found = list(self._by_value(text))
        found += self._by_environment(text)
        if self.by_name and may_hold_credential(text.lower()):
            found += (Secret(start, end, NAMED, text[start:end]) for start, end in find_named_values(text))
        return _without_marks(_merged(found), text) if found else found

    def _by_value(self, text: str) -> Iterable[Secret]:
        scanner = _scanner(self.options)
        if scanner is None:
            return
        data = text.encode("utf-8", "surrogatepass")
        for start, end, rule in scanner.find(data):
            if len(data) == len(text):
                yield Secret(start, end, rule, text[start:end])
            else:
                first, last = _characters(data, start), _characters(data, end)
                yield Secret(first, last, rule, text[first:last])

    def _by_environment(self, text: str) -> Iterable[Secret]:
        for secret in self._secrets:
            place = text.find(secret)
            while place >= 0:
                yield Secret(place, place + len(secret), ENVIRONMENT, secret)
                place = text.find(secret, place + len(secret))


def _names_off(options: Options) -> frozenset[str]:
    """Return which of the two rules without a pattern are switched off."""
    return frozenset({NAMED, ENVIRONMENT} & {name.strip().lower() for name in options.off.split(",")})


def _characters(data: bytes, place: int) -> int:
    """Return how many characters are in *data* before *place*, which is moved to the end of a character."""
    while place < len(data) and data[place] & 0xC0 == 0x80:  # noqa: PLR2004 - a byte that continues a character
        place += 1
    return len(data[:place].decode("utf-8", "surrogatepass"))


def _merged(found: list[Secret]) -> list[Secret]:
    """Join what overlaps; the name and the hash are those of the most exact rule."""
    if len(found) == 1:
        return found
    merged: list[Secret] = []
    for secret in sorted(found):
        if merged and secret.start < merged[-1].end:
            last = merged.pop()
            best = min(last, secret, key=_exactness)
            merged.append(Secret(last.start, max(last.end, secret.end), best.rule, best.value))
        else:
            merged.append(secret)
    return merged


def _exactness(secret: Secret) -> int:
    return 2 if secret.rule == NAMED else 1 if secret.rule == ENVIRONMENT else 0


def _without_marks(found: list[Secret], text: str) -> list[Secret]:
    """Leave out what was replaced before."""
    if "[REDACTED" not in text:
        return found
    marks = [match.span() for match in MARK.finditer(text)]
    return [secret for secret in found if not any(start <= secret.start and secret.end <= end for start, end in marks)]
