"""Token ids and log-probabilities in the answers of OpenAI-compatible servers.

======================= ==============================================================================================
server                  where
======================= ==============================================================================================
vLLM with an old patch  answer: ``prompt_token_ids`` and ``response_token_ids``, a list for each choice
vLLM from 0.10.2        answer: ``prompt_token_ids`` (of a stream: the first chunk); choice: ``token_ids``
vLLM, completions       choice: ``prompt_token_ids`` and ``token_ids``
LiteLLM from 1.7x       answer: ``prompt_token_ids``; choice: ``provider_specific_fields["token_ids"]``
SGLang from 0.5.23      choice: ``prompt_token_ids`` and ``response_token_ids``; or answer: ``sglext`` with
                        ``input_ids`` and ``output_ids``, a list for each choice (of a stream: a last chunk)
OpenAI and all others   log-probabilities: ``logprobs.content[].logprob`` of a choice, ``logprobs.token_logprobs``
                        of a completion, ``logprobs[].logprob`` of an output text of a response
======================= ==============================================================================================

What comes out: ``prompt_token_ids`` and ``response_token_ids`` are lists of int, ``logprobs.content`` is a list of
float, one for each sampled token, in nats; NaN where the server gave none. Choice N > 0 has ``response_token_ids.N``
and ``logprobs.content.N``, and ``prompt_token_ids.N`` only when its prompt is another one (a batch of completions).
Pure: nothing here needs the library, and objects and dicts are read alike.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, cast

from agentlightning import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentlightning.instrumentation.attribute import Attributes

_WHOLE_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_ID_FIELDS = frozenset({"prompt_token_ids", "response_token_ids", "token_ids", "sglext"})
_BOUND = 2**63
_IDS = r'"(?:prompt_token_ids|response_token_ids|token_ids|input_ids|output_ids)"\s*:\s*\[[][\d\s,-]*\]'
# With the comma before it; or, as the first field of an object, with the one behind it.
_IDS_IN_JSON = re.compile(rf"\s*,\s*{_IDS}|{_IDS}\s*,?")
_IN_JSON = re.compile(rb'token_ids"|sglext"|logprobs"\s*:\s*[\[{]')
_NO_MODEL: dict[str, object] = {}
_ANSWER = -1
"""Stands for the whole answer, where a choice would have its index."""


def field(value: Any, name: str) -> Any:  # noqa: ANN401 - whatever a server sends
    """Return a field of a model of pydantic, of another object, or of a dict; None when it is absent."""
    if value.__class__ is dict:  # a chunk is asked for dozens of fields: no call more than it takes
        return value.get(name)
    if isinstance(value, dict):
        return cast("dict[str, object]", value).get(name)
    # A chunk is asked for a dozen fields that it mostly lacks, and pydantic takes 3 us to say no.
    extra: dict[str, object] | None = getattr(value, "__pydantic_extra__", _NO_MODEL)
    if extra is _NO_MODEL:
        return getattr(value, name, None)
    found = value.__dict__.get(name)
    return extra.get(name) if found is None and extra else found


def items(value: object) -> Sequence[object]:
    """Return *value* when it is a list, else nothing."""
    return cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else ()


def may_hold_tokens(text: bytes) -> bool:
    """Tell whether the JSON *text* of an answer or a chunk may hold what ``TokenCollector`` gathers; most do not."""
    return _IN_JSON.search(text) is not None


class TokenCollector:
    """Gathers the arrays of one call, from its whole answer or from the chunks of its stream as they come.

    An array that holds anything but numbers is left out altogether and named in ``agentlightning.invalid``: half an
    array would no longer match the text.
    """

    def __init__(self) -> None:
        """Start with nothing gathered."""
        self._prompts: dict[int, list[int]] = {}
        self._responses: dict[int, list[int]] = {}
        self._spare: dict[int, list[int]] = {}  # of the whole answer: used where the choices have none
        self._logprobs: dict[int, list[float]] = {}
        self._invalid: dict[str, None] = {}

    @property
    def has_ids(self) -> bool:
        """Whether any token ids came."""
        return bool(self._prompts or self._responses or self._spare)

    @property
    def has_logprobs(self) -> bool:
        """Whether any log-probabilities came."""
        return bool(self._logprobs)

    def add(self, part: object) -> None:
        """Take in a whole answer, a chunk, or an event of a response's stream."""
        kind = field(part, "type")
        if isinstance(kind, str) and kind.startswith("response."):
            self._add_event(kind, part)
            return
        self._prompt(_ANSWER, field(part, "prompt_token_ids"))
        self._add_spare(field(part, "response_token_ids"), "response_token_ids")
        extension = field(part, "sglext")
        if extension is not None:
            self._prompt(_ANSWER, field(extension, "input_ids"))
            self._add_spare(field(extension, "output_ids"), "sglext.output_ids")
        for place, choice in enumerate(items(field(part, "choices"))):
            index = field(choice, "index")
            self._add_choice(index if isinstance(index, int) else place, choice)
        if field(part, "object") == "response":
            self._add_response(part)

    def attributes(self) -> Attributes:
        """Return what was gathered, under the names of ``semconv``."""
        found: Attributes = {}
        responses = {**self._spare, **self._responses}
        for name, arrays in ((semconv.RESPONSE_TOKEN_IDS, responses), (semconv.LOGPROBS, self._logprobs)):
            for index, array_ in arrays.items():
                key = name if index == 0 else f"{name}.{index}"
                if array_ and key not in self._invalid:
                    found[key] = array_
        found.update(self._prompt_attributes())
        if self._invalid:
            found[semconv.INVALID] = list(self._invalid)
        return found

    def _prompt_attributes(self) -> Attributes:
        by_choice = dict(sorted(self._prompts.items()))
        main = next(iter(by_choice.values()), None)
        found: Attributes = {}
        for index, ids in by_choice.items():
            if ids is main:
                found[semconv.PROMPT_TOKEN_IDS] = ids
            elif ids != main:
                found[f"{semconv.PROMPT_TOKEN_IDS}.{index}"] = ids
        return found

    def _prompt(self, index: int, value: object) -> None:
        if value is not None and index not in self._prompts:
            ids = self._int_list(value, semconv.PROMPT_TOKEN_IDS)
            if ids:
                self._prompts[index] = ids

    def _add_spare(self, value: object, name: str) -> None:
        """Take ids of the whole answer: a list for each choice, or one plain list of the only choice."""
        if value is None:
            return
        arrays = items(value)
        if arrays and not isinstance(arrays[0], (list, tuple)):
            arrays = [value]
        elif not isinstance(value, (list, tuple)):
            self._invalid[name] = None
        for index, array_ in enumerate(arrays):
            ids = self._int_list(array_, _key(semconv.RESPONSE_TOKEN_IDS, index))
            if ids is not None:
                self._spare[index] = ids

    def _add_choice(self, index: int, choice: object) -> None:
        self._prompt(index, field(choice, "prompt_token_ids"))
        ids = _choice_ids(choice)
        if ids is not None:
            checked = self._int_list(ids, _key(semconv.RESPONSE_TOKEN_IDS, index))
            if checked:
                self._responses.setdefault(index, []).extend(checked)
        logprobs = field(choice, "logprobs")
        if logprobs is not None:
            entries = field(logprobs, "content")
            values = field(logprobs, "token_logprobs") if entries is None else _entry_values(entries)
            self._add_logprobs(index, values)

    def _add_event(self, kind: str, event: object) -> None:
        if kind == "response.output_text.delta":
            # Empty lists come with every delta that has none.
            self._add_logprobs(0, _entry_values(field(event, "logprobs") or ()))
        elif kind in _WHOLE_EVENTS:
            whole = field(event, "response")
            if whole is not None:
                self._logprobs.clear()  # the whole response has them all once more
                self.add(whole)

    def _add_response(self, response: object) -> None:
        for item in items(field(response, "output")):
            for part in items(field(item, "content")):
                self._add_logprobs(0, _entry_values(field(part, "logprobs") or ()))

    def _add_logprobs(self, index: int, values: object) -> None:
        if values is None:
            return
        key = _key(semconv.LOGPROBS, index)
        floats = _float_list(values)
        if floats is None:
            self._invalid[key] = None
        elif floats:
            self._logprobs.setdefault(index, []).extend(floats)

    def _int_list(self, value: object, key: str) -> list[int] | None:
        """Return *value* when it is a list of 64-bit integers, else note *key* and return None."""
        if isinstance(value, (list, tuple)):
            elements = cast("Sequence[object]", value)
            # Passes in C: 1 ms for 32k ids. A bool is an int, and no token id; beyond 64 bits OTLP has no integers.
            if set(map(type, elements)) <= {int}:
                ids = cast("list[int]", elements)
                if not ids or (min(ids) >= -_BOUND and max(ids) < _BOUND):
                    return ids
        self._invalid[key] = None
        return None


def json_without_ids(text: str) -> str:
    """Return the JSON text of an answer without its token ids; ten times as fast as reading and writing it.

    A quotation mark inside a text is escaped, so that nothing of what was said can look like a field.
    """
    return _IDS_IN_JSON.sub("", text)


def without_token_fields(payload: object, *, logprobs: bool) -> object:
    """Return a copy of an answer's plain data without the arrays that have attributes of their own.

    Twice 32k ids as text would be half a megabyte. With *logprobs*, log-probabilities without alternatives go as well.
    """
    if isinstance(payload, list):
        return [without_token_fields(element, logprobs=logprobs) for element in cast("list[object]", payload)]
    if not isinstance(payload, dict):
        return payload
    kept: dict[str, object] = {}
    for key, value in cast("dict[str, object]", payload).items():
        if key in _ID_FIELDS or (logprobs and key == "logprobs" and not _has_alternatives(value)):
            continue
        # Only these lead to places where servers put ids; an argument of a tool may have any name.
        deeper = key in {"choices", "provider_specific_fields", "message", "delta", "output", "content"}
        kept[key] = without_token_fields(value, logprobs=logprobs) if deeper else value
    return kept


def _key(name: str, index: int) -> str:
    return name if index == 0 else f"{name}.{index}"


def _choice_ids(choice: object) -> object:
    """Return the ids of a choice's tokens from the first place that has them."""
    for name in ("token_ids", "response_token_ids"):
        ids = field(choice, name)
        if ids is not None:
            return ids
    for holder in (choice, field(choice, "message"), field(choice, "delta")):
        ids = field(field(holder, "provider_specific_fields"), "token_ids")
        if ids is not None:
            return ids
    return None


def _entry_values(entries: object) -> object:
    """Return the log-probability of each entry; what is no list stays as it is."""
    if not isinstance(entries, (list, tuple)):
        return entries
    return [field(entry, "logprob") for entry in cast("Iterable[object]", entries)]


def _float_list(values: object) -> list[float] | None:
    """Return numbers as floats, with NaN for None; None when anything else is among them."""
    if not isinstance(values, (list, tuple)):
        return None
    elements = cast("Sequence[object]", values)
    if not set(map(type, elements)) <= {float, int, type(None)}:
        return None
    return [math.nan if value is None else float(cast("float", value)) for value in elements]


def _has_alternatives(logprobs: object) -> bool:
    """Tell whether log-probabilities say more than those of the sampled tokens."""
    if isinstance(logprobs, dict):
        fields = cast("dict[str, object]", logprobs)
        if any(items(fields.get("top_logprobs"))) or fields.get("refusal"):
            return True
        logprobs = fields.get("content")
    return any(field(entry, "top_logprobs") for entry in items(logprobs))
