"""The key layer of redaction: values under names that mean a credential never leave the worker thread.

Three rules. A value whose attribute name means a credential is replaced. In any text, a quoted name that means one
(JSON, a Python dict, headers), an ``Authorization:`` line and an assignment to an environment variable such as
``FOO_API_KEY=`` lose their value. The values of such variables in this process's own environment are replaced wherever
they appear. Numbers are never touched: token counts, token ids and log-probabilities are what we exist for.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning import semconv
from agentlightning.pipeline.credential import hide_named_values, may_hold_credential, names_credential

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentlightning.types.record import AttributeMap, SpanRecord

REPLACEMENT = "[REDACTED]"

_ENVIRONMENT_NAME = re.compile(r"(?:_KEY|_TOKEN|_SECRET|PASSWORD|PASSWD|_CREDENTIALS?)\Z|APIKEY")
_SHORTEST_SECRET = 12
"""A value in the environment that is shorter is likely a word, and replacing it would damage texts."""


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


class Redactor:
    """Redacts records in place; used by one worker thread."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Take the secrets to look for from *environment*, default this process's own."""
        self._secrets = environment_secrets(os.environ if environment is None else environment)
        self._verdicts: dict[str, bool] = {}

    def redact(self, record: SpanRecord) -> None:
        """Replace credentials in every text of *record* and mark the attributes that were changed."""
        changed: list[str] = []
        self._attributes(record.attributes, changed)
        for event in record.events:
            event.name = self.text(event.name)
            self._attributes(event.attributes, changed)
        for link in record.links:
            self._attributes(link.attributes, changed)
        if record.status_description:
            record.status_description = self.text(record.status_description)
        record.name = self.text(record.name)
        if changed:
            record.attributes[semconv.REDACTED] = sorted(set(changed))

    def attributes(self, attributes: AttributeMap) -> AttributeMap:
        """Return a copy of *attributes* without credentials: for resources and metadata."""
        copy = dict(attributes)
        self._attributes(copy, [])
        return copy

    def command(self, arguments: list[str]) -> list[str]:
        """Return a command line without credentials: ``--api-key VALUE`` and ``--api-key=VALUE`` too."""
        shown: list[str] = []
        hide = False
        for argument in arguments:
            name, equals, _ = argument.partition("=")
            if hide and not argument.startswith("-"):
                shown.append(REPLACEMENT)
            elif equals and names_credential(name):
                shown.append(f"{name}={REPLACEMENT}")
            else:
                shown.append(self.text(argument))
            hide = argument.startswith("-") and not equals and names_credential(argument)
        return shown

    def text(self, text: str) -> str:
        """Return *text* without credentials, the same object when it holds none."""
        return self._clean(text) if self._suspicious(text) else text

    def value(self, value: object) -> object:
        """Return *value*, a text or any nesting of lists and dicts, without credentials."""
        return _walk(value, self.text)

    def _attributes(self, attributes: AttributeMap, changed: list[str]) -> None:
        texts: list[str] = []
        for key, value in attributes.items():
            verdict = self._verdicts.get(key)
            if verdict is None:
                verdict = self._judge(key)
            if type(value) is str:
                if verdict:
                    attributes[key] = REPLACEMENT
                    changed.append(key)
                else:
                    texts.append(value)
            elif not isinstance(value, (bool, int, float)) and (verdict or not _numbers(value)):
                self._nested(attributes, key, changed, hide=verdict)
        # One look at all texts of the span; only when it finds something is each of them looked at.
        if texts and self._suspicious("\n".join(texts)):
            for key, value in attributes.items():
                if type(value) is str and value is not REPLACEMENT:
                    clean = self.text(value)
                    if clean is not value:
                        attributes[key] = clean
                        changed.append(key)

    def _judge(self, key: str) -> bool:
        if len(self._verdicts) >= 10_000:  # noqa: PLR2004 - keys come from programs; a bound keeps memory flat
            self._verdicts.clear()
        verdict = self._verdicts[key] = names_credential(key)
        return verdict

    def _nested(self, attributes: AttributeMap, key: str, changed: list[str], *, hide: bool) -> None:
        old = attributes[key]
        new = REPLACEMENT if hide and not _numbers(old) else _walk(old, self.text)
        if new != old:
            attributes[key] = new
            changed.append(key)

    def _suspicious(self, text: str) -> bool:
        return may_hold_credential(text.lower()) or any(secret in text for secret in self._secrets)

    def _clean(self, text: str) -> str:
        clean = hide_named_values(text, REPLACEMENT)
        for secret in self._secrets:
            clean = clean.replace(secret, REPLACEMENT)
        return text if clean == text else clean


def _numbers(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return isinstance(cast("list[object]", value)[0], (bool, int, float))


def _walk(value: object, clean: Callable[[str], str], depth: int = 0) -> object:
    """Return *value* with *clean* applied to every text in it and credentials' values replaced."""
    if isinstance(value, str):
        return clean(value)
    if depth > 50:  # noqa: PLR2004 - deeper values are data structures gone wrong
        return REPLACEMENT
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {
            key: REPLACEMENT if _is_hidden(str(key), item) else _walk(item, clean, depth + 1) for key, item in items
        }
    if isinstance(value, (list, tuple)):
        return [_walk(item, clean, depth + 1) for item in cast("list[object]", value)]
    return value


def _is_hidden(name: str, value: object) -> bool:
    """Tell whether *value* is replaced for its name: texts and lists of them are, a schema or a number is not."""
    if not isinstance(value, (str, list)) or _numbers(cast("object", value)):
        return False
    return names_credential(name)
