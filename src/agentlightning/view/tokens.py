"""Token ids and log-probabilities of an LLM call: the exact tokens, not the text.

Read from the attributes that our instrumentation writes, and where those are missing from the raw answer of the
server in ``output.value``. Never raises for what an attribute holds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning.semconv import LOGPROBS, PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS
from agentlightning.view.loose import as_dict, as_list, as_text, decoded

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TOKEN_ID = 2**31
"""No vocabulary is larger; a number above is no token id."""


_TELLTALES = ("token_ids", PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS, "sglext", "logprobs")


class ChoiceTokens(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a call."""

    index: int
    """Number of the choice, from 0."""
    ids: tuple[int, ...] | None = None
    """Ids that the engine sampled; None where none were reported."""
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each sampled token; NaN where the engine gave no number. None: none reported."""
    tokens: tuple[str, ...] | None = None
    """Text of each token of ``logprobs``, where reported."""
    prompt: tuple[int, ...] | None = None
    """Ids of the prompt of this choice, only where it is another one than that of the call (a batch)."""


class TokenIds(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the tokens of a call."""

    prompt: tuple[int, ...] | None = None
    """Ids of the prompt as the engine saw them; None where none were reported."""
    choices: tuple[ChoiceTokens, ...] = ()
    """Choices of which anything is known, by index."""
    problems: tuple[str, ...] = ()
    """Names of fields that were there and held something else than they should."""

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return self.prompt is not None or bool(self.choices)


def token_ids(attributes: Mapping[str, object]) -> TokenIds:
    """Return the token ids and log-probabilities in *attributes*; empty where they hold none."""
    problems: list[str] = []
    prompt = _ids(attributes, PROMPT_TOKEN_IDS, problems)
    choices: dict[int, ChoiceTokens] = {}
    for index in sorted(_choice_numbers(attributes)):
        suffix = f".{index}" if index else ""
        ids = _ids(attributes, RESPONSE_TOKEN_IDS + suffix, problems)
        logprobs, tokens = _logprobs(attributes, LOGPROBS + suffix, problems)
        own = _ids(attributes, PROMPT_TOKEN_IDS + suffix, problems) if index else None
        if ids is not None or logprobs is not None or own is not None:
            choices[index] = ChoiceTokens(index=index, ids=ids, logprobs=logprobs, tokens=tokens, prompt=own)
    found = TokenIds(prompt=prompt, choices=tuple(choices.values()), problems=tuple(problems))
    return found or _in_answer(attributes, found)


def token_fields(answer: Mapping[str, object]) -> TokenIds:
    """Return the token ids and log-probabilities in the *answer* of a server, as JSON decodes it.

    Knows vLLM since 0.10.2 (``prompt_token_ids``, ``choices[].token_ids``; both in the choice for completions), LiteLLM
    (``choices[].provider_specific_fields.token_ids``), SGLang (``choices[].response_token_ids``, or ``sglext``) and the
    older patch of vLLM (``response_token_ids``, a list of lists); log-probabilities of chat and of completions.
    """
    problems: list[str] = []
    extension = as_dict(answer.get("sglext"))
    prompt = _ids(answer, PROMPT_TOKEN_IDS, problems)
    if prompt is None:
        prompt = _ids(extension, "input_ids", problems)
    rows = as_list(answer.get(RESPONSE_TOKEN_IDS)) or as_list(extension.get("output_ids"))
    choices: list[ChoiceTokens] = []
    for place, item in enumerate(as_list(answer.get("choices"))):
        found = _choice(as_dict(item), place, rows, problems)
        if prompt is None:
            prompt = found.prompt
        own = None if found.prompt == prompt else found.prompt
        if found.ids is not None or found.logprobs is not None or own is not None:
            choices.append(msgspec.structs.replace(found, prompt=own))
    choices.sort(key=lambda choice: choice.index)
    return TokenIds(prompt=prompt, choices=tuple(choices), problems=tuple(problems))


def _choice(choice: dict[str, object], place: int, rows: list[object], problems: list[str]) -> ChoiceTokens:
    specific = as_dict(choice.get("provider_specific_fields"))
    ids = None
    for where, name in ((choice, "token_ids"), (choice, RESPONSE_TOKEN_IDS), (specific, "token_ids")):
        if ids is None:
            ids = _ids(where, name, problems)
    if ids is None and place < len(rows):
        ids = _numbers(rows[place])
    reported = as_dict(choice.get("logprobs"))
    logprobs, tokens = _logprobs(reported, "content" if "content" in reported else "token_logprobs", problems)
    number = choice.get("index")
    return ChoiceTokens(
        index=number if type(number) is int and number >= 0 else place,
        ids=ids,
        logprobs=logprobs,
        tokens=tokens,
        prompt=_ids(choice, PROMPT_TOKEN_IDS, problems),
    )


def _in_answer(attributes: Mapping[str, object], empty: TokenIds) -> TokenIds:
    text = attributes.get("output.value")
    # Decoding megabytes of text for nothing is what this saves.
    if not isinstance(text, str) or not any(f'"{name}"' in text for name in _TELLTALES):
        return empty
    found = token_fields(as_dict(decoded(text)))
    return msgspec.structs.replace(found, problems=(*empty.problems, *found.problems))


def _choice_numbers(attributes: Mapping[str, object]) -> set[int]:
    numbers = {0}
    for key in attributes:
        for base in (RESPONSE_TOKEN_IDS, LOGPROBS, PROMPT_TOKEN_IDS):
            if key.startswith(base + "."):
                last = key[len(base) + 1 :]
                if last.isascii() and last.isdecimal() and len(last) < 6:  # noqa: PLR2004 - no call has 100,000 choices
                    numbers.add(int(last))
    return numbers


def _ids(raw: Mapping[str, object], name: str, problems: list[str]) -> tuple[int, ...] | None:
    if raw.get(name) is None:
        return None
    value = raw[name]
    found = _numbers(decoded(value) if isinstance(value, str) else value)
    if found is None:
        problems.append(name)
    return found


def _numbers(value: object) -> tuple[int, ...] | None:
    items = as_list(value)
    if len(items) == 1 and isinstance(items[0], (list, tuple)):
        items = as_list(cast("object", items[0]))  # the older patch of vLLM: one row for each choice
    if not items and not isinstance(value, (list, tuple)):
        return None
    if set(map(type, items)) <= {int}:  # passes in C: a prompt may have 100,000 ids
        ids = cast("list[int]", items)
        if not ids or (min(ids) >= 0 and max(ids) <= MAX_TOKEN_ID):
            return tuple(ids)
    return None


def _logprobs(
    raw: Mapping[str, object], name: str, problems: list[str]
) -> tuple[tuple[float, ...] | None, tuple[str, ...] | None]:
    value = raw.get(name)
    if value is None:
        return None, None
    listed = decoded(value) if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)):
        problems.append(name)
        return None, None
    items = as_list(cast("object", listed))
    if set(map(type, items)) <= {float}:
        plain = tuple(cast("list[float]", items))
        if any(map(math.isnan, plain)):
            problems.append(name)
        return plain, None
    entries = [as_dict(item) for item in items]
    numbers = tuple(_float(entry.get("logprob") if entry else item) for item, entry in zip(items, entries, strict=True))
    tokens = tuple(as_text(entry.get("token")) for entry in entries) if entries and all(entries) else None
    if any(math.isnan(number) for number in numbers):
        problems.append(name)
    return numbers, tokens


def _float(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.nan
    return math.nan
