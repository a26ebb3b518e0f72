"""Applies both layers to texts, values and records."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning import semconv
from agentlightning._internal.guard import tally
from agentlightning.pipeline.redaction.credential import names_credential
from agentlightning.pipeline.redaction.finder import BETWEEN, MARK, NAMED, Finder, Secret, environment_secrets
from agentlightning.pipeline.redaction.rule import Options
from agentlightning.pipeline.redaction.secret_key import HashKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from agentlightning.types.record import AttributeMap, ResourceRecord, SpanRecord

REPLACEMENT = "[REDACTED]"
"""In place of what is no text, or is nested too deeply to be looked at."""

_NUMBERS: frozenset[type] = frozenset({int, float, bool, type(None)})
_MOST_PASSES = 4
_MOST_KEYS = 10_000
_MOST_RESOURCES = 64
_MAX_DEPTH = 50
_PIECE = 2**16
"""Characters that are looked at together; at most one span more."""


class _Look:
    """A record on its way: its names are done, its texts are to be looked at."""

    __slots__ = ("changed", "is_done", "maps", "record", "rules", "text", "walk")

    def __init__(self, record: SpanRecord) -> None:
        self.record = record
        self.maps = [record.attributes]
        if record.events or record.links:
            self.maps += [part.attributes for part in (*record.events, *record.links)]
        self.text = ""
        self.walk = False
        """Whether its texts have to be gone through one by one."""
        self.changed: list[str] = []
        """Names of the attributes whose values were replaced."""
        self.rules: list[str] = []
        """The rule of each value that was replaced."""
        self.is_done = False

    def note(self) -> None:
        """Mark on the record what was changed and by which rules."""
        if self.changed:
            self.record.attributes[semconv.REDACTED] = sorted(set(self.changed))
        if self.rules:
            found = [f"{rule}:{number}" for rule, number in sorted(Counter(self.rules).items())]
            self.record.attributes[semconv.REDACTED_RULES] = found


class Redactor:
    """Redacts records in place; used by one thread. Settings are read anew for every record: they may change."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, store_url: str | None = None) -> None:
        """Look for secrets of *environment*, default this process's own; hash with the key of the store at *store_url*.

        Raises:
            SettingError: The settings of redaction hold nonsense.
        """
        self.counts: Counter[str] = Counter()
        """How many credentials each rule has replaced so far."""
        self._rules: list[str] = []
        """Those of the record that is being looked at."""
        self._secrets = environment_secrets(os.environ if environment is None else environment)
        self._keys: dict[str, tuple[bool, str]] = {}
        self._resources: dict[int, tuple[ResourceRecord, ResourceRecord]] = {}
        self._hash_key = HashKey(store_url)
        self._finder = Finder(Options.from_settings(), self._secrets)

    def redact(self, record: SpanRecord) -> None:
        """Replace credentials in every text of *record*, and mark what was changed and by which rules."""
        self._refresh()
        look = _Look(record)
        self._begin(look)
        for suspect in self._suspects([look]):
            self._clean_texts(suspect)
        look.note()

    def redact_all(self, records: Sequence[SpanRecord]) -> list[bool]:
        """Do the same for many, looking at their texts together: one search rules out most of them.

        Returns:
            For each record whether it is done; one that is not must not be written.
        """
        self._refresh()
        done: list[bool] = []
        for looks in self._begun(records):
            for suspect in self._suspects(looks):
                suspect.is_done = suspect.is_done and _tried(self._clean_texts, suspect)
            for look in looks:
                look.note()
                done.append(look.is_done)
        return done

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
        return self._finder.find(text)

    def _begun(self, records: Sequence[SpanRecord]) -> Iterator[list[_Look]]:
        """Yield the records, their names done, as many at once as are looked at together."""
        looks: list[_Look] = []
        size = 0
        for record in records:
            look = _Look(record)
            look.is_done = _tried(self._begin, look)
            looks.append(look)
            size += len(look.text)
            if size > _PIECE:
                yield looks
                looks, size = [], 0
        yield looks

    def _begin(self, look: _Look) -> None:
        """Replace what is known by its name, and gather the other texts."""
        self._rules = look.rules
        record = look.record
        texts = [record.name]
        for attributes in look.maps:
            look.walk = self._hide_by_name(attributes, texts, look.changed) or look.walk
        if record.events:
            texts += [event.name for event in record.events]
        if record.links:
            texts += [link.trace_state for link in record.links]
        if record.status_description or record.trace_state:
            texts += [record.status_description or "", record.trace_state]
        record.resource = self._clean_resource(record.resource)
        if record.scope_name:  # few of either, so each is looked at once
            record.scope_name = self._judge(record.scope_name)[1]
        if record.scope_version:
            record.scope_version = self._judge(record.scope_version)[1]
        look.text = BETWEEN.join(texts)

    def _suspects(self, looks: list[_Look]) -> list[_Look]:
        """Return those whose texts have to be looked at one by one; all of them where the first look fails."""
        places: Sequence[int] = range(len(looks))
        with tally("redaction"):  # one of them is to blame, and the close look finds out which
            places = [*self._finder.suspects([look.text for look in looks])]
        for place in places:
            looks[place].walk = True
        return [look for look in looks if look.walk]

    def _clean_texts(self, look: _Look) -> None:
        """Replace what is known by its shape or its value in every text of a record."""
        self._rules = look.rules
        record = look.record
        for attributes in look.maps:
            self._clean_values(attributes, look.changed)
        for event in record.events:
            event.name = self._clean(event.name)
        for link in record.links:
            link.trace_state = self._clean(link.trace_state)
        if record.status_description:
            record.status_description = self._clean(record.status_description)
        record.trace_state = self._clean(record.trace_state)
        record.name = self._clean(record.name)

    def _clean_resource(self, resource: ResourceRecord) -> ResourceRecord:
        """Return *resource* without credentials; once for each object, which all spans of a provider share."""
        known = self._resources.get(id(resource))
        if known is None:
            if len(self._resources) >= _MOST_RESOURCES:
                self._resources.clear()
            copy = dict(resource.attributes)
            self._hide_by_name(copy, [], [])
            self._clean_values(copy, [])
            schema_url = self._clean(resource.schema_url)
            is_clean = copy == resource.attributes and schema_url == resource.schema_url
            clean = resource if is_clean else type(resource)(copy, schema_url)
            # Kept beside what was made of it: an id() is only unique while its object lives.
            known = self._resources[id(resource)] = (resource, clean)
        return known[1]

    def _refresh(self) -> None:
        options = Options.from_settings()
        if options != self._finder.options:
            self._finder = Finder(options, self._secrets)
            self._keys.clear()
            self._resources.clear()

    def _mark(self, rule: str, secret: str) -> str:
        self.counts[rule] += 1
        self._rules.append(rule)
        return f"[REDACTED:{rule}:{self._hash_key.hash8(secret)}]"

    def _named(self, value: object) -> str:
        """Return what stands in place of a value whose name means a credential; a mark stays as it is."""
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return text if MARK.fullmatch(text) else self._mark(NAMED, text)

    def _judge(self, key: str) -> tuple[bool, str]:
        """Tell whether *key* means a credential, and return it without credentials of its own."""
        verdict = self._keys.get(key)
        if verdict is None:
            if len(self._keys) >= _MOST_KEYS:  # keys come from programs; a bound keeps memory flat
                self._keys.clear()
            verdict = self._keys[key] = (self._finder.by_name and names_credential(key), self._clean(key))
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
                    changed.append(clean_key)
            elif isinstance(value, (list, dict)) and not _numbers(cast("object", value)):
                if hide and isinstance(value, list):
                    attributes[key] = self._named(cast("object", value))
                    changed.append(clean_key)
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
                if self._finder.by_name and _is_hidden(str(key), item)
                else self._walk(item, depth + 1)
                for key, item in items
            }
        if isinstance(value, (list, tuple)) and not _numbers(cast("object", value)):
            return [self._walk(item, depth + 1) for item in cast("Iterable[object]", value)]
        return cast("object", value)

    def _clean(self, text: str) -> str:
        # What stands in place of one credential may make another one visible, so look again until nothing is found.
        clean = text
        for _ in range(_MOST_PASSES):
            found = self._finder.find(clean)
            if not found:
                break
            parts: list[str] = []
            copied = 0
            for secret in found:
                parts += (clean[copied : secret.start], self._mark(secret.rule, secret.value))
                copied = secret.end
            clean = "".join((*parts, clean[copied:]))
        return clean


def _tried(step: Callable[[_Look], None], look: _Look) -> bool:
    """Tell whether *step* went well; the failure of one record must not cost the others."""
    with tally("redaction"):
        step(look)
        return True
    return False  # whatever it was, the record is not clean


def _numbers(value: object) -> bool:
    """Tell whether *value* is a list of numbers: token ids, log-probabilities."""
    if not isinstance(value, list) or not value:
        return False
    values = cast("list[object]", value)
    return type(values[0]) in _NUMBERS and _NUMBERS.issuperset(set(map(type, values)))


def _is_hidden(name: str, value: object) -> bool:
    """Tell whether *value* is replaced for its name: texts and lists of them are, a schema or a number is not."""
    if isinstance(value, str):
        return not MARK.fullmatch(value) and names_credential(name)
    if not isinstance(value, list) or not value or _numbers(cast("object", value)):
        return False
    return names_credential(name)
