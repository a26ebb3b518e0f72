"""Applies both layers to texts, values and records."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

from agentlightning import semconv
from agentlightning.pipeline.credential import find_named_values, may_hold_credential, names_credential
from agentlightning.pipeline.redaction.rule import Options, active_rules
from agentlightning.pipeline.redaction.secret_key import HashKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentlightning.pipeline.redaction.scan import ValueScanner
    from agentlightning.types.record import AttributeMap, ResourceRecord, SpanRecord

REPLACEMENT = "[REDACTED]"
"""In place of what is no text, or is nested too deeply to be looked at."""

NAMED, ENVIRONMENT = "named", "environment"
"""The rules without a pattern: a name that means a credential, a value of this process's environment."""

_MARK = re.compile(r"\[REDACTED(?::[\w-]{1,100}:[0-9a-f]{8})?\]")
_ENVIRONMENT_NAME = re.compile(r"(?:_KEY|_TOKEN|_SECRET|PASSWORD|PASSWD|_CREDENTIALS?)\Z|APIKEY")
_SHORTEST_SECRET = 12
"""A value in the environment that is shorter is likely a word, and replacing it would damage texts."""

_NUMBERS: frozenset[type] = frozenset({int, float, bool, type(None)})
_MOST_PASSES = 4
_MOST_KEYS = 10_000
_MOST_RESOURCES = 64
_MAX_DEPTH = 50
_BETWEEN = "\0"
"""Stands between texts that are looked at together; no rule reaches across it."""


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


class Redactor:
    """Redacts records in place; used by one thread. Settings are read anew for every record: they may change."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, store_url: str | None = None) -> None:
        """Look for secrets of *environment*, default this process's own; hash with the key of the store at *store_url*.

        Raises:
            SettingError: The settings of redaction hold nonsense.
        """
        self.counts: Counter[str] = Counter()
        """How many credentials each rule has replaced so far."""
        self._secrets = environment_secrets(os.environ if environment is None else environment)
        self._keys: dict[str, tuple[bool, str]] = {}
        self._resources: dict[int, tuple[ResourceRecord, ResourceRecord]] = {}
        self._hash_key = HashKey(store_url)
        self._options = Options.from_settings()
        self._off = active_names_off(self._options)
        active_rules(self._options)

    def redact(self, record: SpanRecord) -> None:
        """Replace credentials in every text of *record*, and mark what was changed and by which rules."""
        self._refresh()
        before = self.counts.copy() if self.counts else None
        changed: list[str] = []
        texts = [record.name]
        maps = [record.attributes, *(event.attributes for event in record.events)]
        maps += [link.attributes for link in record.links]
        nested = [self._hide_by_name(attributes, texts, changed) for attributes in maps]
        texts.extend(event.name for event in record.events)
        texts.extend(text for text in (record.status_description, record.trace_state) if text)
        record.resource = self._clean_resource(record.resource)
        if record.scope_name:
            record.scope_name = self._judge(record.scope_name)[1]
        # One look at all texts of the span; only when it finds something is each of them looked at.
        if any(nested) or self._suspicious(_BETWEEN.join(texts)):
            for attributes in maps:
                self._clean_values(attributes, changed)
            for event in record.events:
                event.name = self._clean(event.name)
            if record.status_description:
                record.status_description = self._clean(record.status_description)
            record.trace_state = self._clean(record.trace_state)
            record.name = self._clean(record.name)
        if changed:
            record.attributes[semconv.REDACTED] = sorted(set(changed))
        if self.counts and (new := self.counts - before if before else self.counts):
            record.attributes[semconv.REDACTED_RULES] = [f"{rule}:{number}" for rule, number in sorted(new.items())]

    def attributes(self, attributes: AttributeMap) -> AttributeMap:
        """Return a copy of *attributes* without credentials: for resources and metadata."""
        self._refresh()
        copy = dict(attributes)
        self._hide_by_name(copy, [], [])
        self._clean_values(copy, [])
        return copy

    def command(self, arguments: list[str]) -> list[str]:
        """Return a command line without credentials: ``--api-key VALUE`` and ``--api-key=VALUE`` too."""
        shown: list[str] = []
        hide = False
        for argument in arguments:
            name, equals, value = argument.partition("=")
            if hide and not argument.startswith("-"):
                shown.append(self._named(argument))
            elif equals and names_credential(name):
                shown.append(f"{name}={self._named(value)}")
            else:
                shown.append(self.text(argument))
            hide = argument.startswith("-") and not equals and names_credential(argument)
        return shown

    def text(self, text: str) -> str:
        """Return *text* without credentials, the same object when it holds none."""
        self._refresh()
        return self._clean(text)

    def value(self, value: object) -> object:
        """Return *value*, a text or any nesting of lists and dicts, without credentials."""
        self._refresh()
        return self._walk(value)

    def find(self, text: str) -> list[Secret]:
        """Return the credentials in *text*, in order and without overlap."""
        self._refresh()
        return self._find(text)

    def _clean_resource(self, resource: ResourceRecord) -> ResourceRecord:
        """Return *resource* without credentials; once for each object, which all spans of a provider share."""
        known = self._resources.get(id(resource))
        if known is None:
            if len(self._resources) >= _MOST_RESOURCES:
                self._resources.clear()
            copy = dict(resource.attributes)
            self._hide_by_name(copy, [], [])
            self._clean_values(copy, [])
            clean = resource if copy == resource.attributes else type(resource)(copy, resource.schema_url)
            # Kept beside what was made of it: an id() is only unique while its object lives.
            known = self._resources[id(resource)] = (resource, clean)
        return known[1]

    def _refresh(self) -> None:
        options = Options.from_settings()
        if options != self._options:
            active_rules(options)  # raises before anything is changed
            self._options, self._off = options, active_names_off(options)
            self._keys.clear()
            self._resources.clear()

    def _mark(self, rule: str, secret: str) -> str:
        self.counts[rule] += 1
        return f"[REDACTED:{rule}:{self._hash_key.hash8(secret)}]"

    def _named(self, value: object) -> str:
        """Return what stands in place of a value whose name means a credential; a mark stays as it is."""
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return text if _MARK.fullmatch(text) else self._mark(NAMED, text)

    def _judge(self, key: str) -> tuple[bool, str]:
        """Tell whether *key* means a credential, and return it without credentials of its own."""
        verdict = self._keys.get(key)
        if verdict is None:
            if len(self._keys) >= _MOST_KEYS:  # keys come from programs; a bound keeps memory flat
                self._keys.clear()
            verdict = self._keys[key] = (NAMED not in self._off and names_credential(key), self._clean(key))
        return verdict

    def _hide_by_name(self, attributes: AttributeMap, texts: list[str], changed: list[str]) -> bool:
        """Replace values by their names, add the other texts to *texts*; tell whether nested values need a walk."""
        walk = False
        odd: list[str] = []
        known = self._keys
        for key, value in attributes.items():
            hide, clean_key = known.get(key) or self._judge(key)
            if clean_key != key:
                odd.append(key)
            if type(value) is str:
                if not hide:
                    texts.append(value)
                elif (mark := self._named(value)) != value:
                    attributes[key] = mark
                    changed.append(key)
            elif isinstance(value, (list, dict)) and not _numbers(cast("object", value)):
                if hide and isinstance(value, list):
                    attributes[key] = self._named(cast("object", value))
                    changed.append(key)
                else:
                    walk = self._gather(cast("object", value), texts) or walk
        for key in odd:
            attributes[self._keys[key][1] if key in self._keys else self._clean(key)] = attributes.pop(key)
        return walk

    def _gather(self, value: object, texts: list[str], depth: int = 0) -> bool:
        """Add every text in *value* to *texts*; tell whether a name in it means a credential, or it is too deep."""
        if isinstance(value, str):
            texts.append(value)
            return False
        if depth > _MAX_DEPTH:
            return True
        if isinstance(value, dict):
            walk = False
            for key, item in cast("dict[object, object]", value).items():
                texts.append(str(key))
                walk = self._gather(item, texts, depth + 1) or _is_hidden(str(key), item) or walk
            return walk
        if isinstance(value, (list, tuple)) and not _numbers(cast("object", value)):
            # Every item, not only up to the first that needs a walk: the texts of all are looked at.
            return sum(self._gather(item, texts, depth + 1) for item in cast("Iterable[object]", value)) > 0
        return False

    def _clean_values(self, attributes: AttributeMap, changed: list[str]) -> None:
        for key, value in attributes.items():
            if type(value) is str:
                clean: object = self._clean(value)
            elif isinstance(value, (list, dict)) and not _numbers(cast("object", value)):
                clean = self._walk(cast("object", value))
            else:
                continue
            if clean != value:
                attributes[key] = clean
                changed.append(key)

    def _walk(self, value: object, depth: int = 0) -> object:
        """Return *value* with every text in it cleaned and credentials' values replaced."""
        if isinstance(value, str):
            return self._clean(value)
        if depth > _MAX_DEPTH:
            return REPLACEMENT
        if isinstance(value, dict):
            items = cast("dict[object, object]", value).items()
            return {
                self._clean(key) if isinstance(key, str) else key: self._named(item)
                if NAMED not in self._off and _is_hidden(str(key), item)
                else self._walk(item, depth + 1)
                for key, item in items
            }
        if isinstance(value, (list, tuple)) and not _numbers(cast("object", value)):
            return [self._walk(item, depth + 1) for item in cast("Iterable[object]", value)]
        return cast("object", value)

    def _suspicious(self, text: str) -> bool:
        if NAMED not in self._off and may_hold_credential(text.lower()):
            return True
        if ENVIRONMENT not in self._off and any(secret in text for secret in self._secrets):
            return True
        scanner = _scanner(self._options)
        return scanner is not None and bool(scanner.find(text.encode("utf-8", "surrogatepass")))

    def _clean(self, text: str) -> str:
        # What stands in place of one credential may make another one visible, so look again until nothing is found.
        clean = text
        for _ in range(_MOST_PASSES):
            found = self._find(clean)
            if not found:
                break
            parts: list[str] = []
            copied = 0
            for secret in found:
                parts += (clean[copied : secret.start], self._mark(secret.rule, secret.value))
                copied = secret.end
            clean = "".join((*parts, clean[copied:]))
        return clean

    def _find(self, text: str) -> list[Secret]:
        found = list(self._by_value(text))
        if ENVIRONMENT not in self._off:
            found += self._by_environment(text)
        if NAMED not in self._off and may_hold_credential(text.lower()):
            found += (Secret(start, end, NAMED, text[start:end]) for start, end in find_named_values(text))
        return _without_marks(_merged(found), text) if found else found

    def _by_value(self, text: str) -> Iterable[Secret]:
        scanner = _scanner(self._options)
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


def active_names_off(options: Options) -> frozenset[str]:
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
    marks = [match.span() for match in _MARK.finditer(text)]
    return [secret for secret in found if not any(start <= secret.start and secret.end <= end for start, end in marks)]


def _numbers(value: object) -> bool:
    """Tell whether *value* is a list of numbers: token ids, log-probabilities."""
    if not isinstance(value, list) or not value:
        return False
    values = cast("list[object]", value)
    return type(values[0]) in _NUMBERS and _NUMBERS.issuperset(set(map(type, values)))


def _is_hidden(name: str, value: object) -> bool:
    """Tell whether *value* is replaced for its name: texts and lists of them are, a schema or a number is not."""
    if isinstance(value, str):
        return not _MARK.fullmatch(value) and names_credential(name)
    if not isinstance(value, list) or not value or _numbers(cast("object", value)):
        return False
    return names_credential(name)
