"""Rollouts as JSON that loses nothing, and back.

JSON has no NaN, no infinities and no bytes. They are written as an object with one key that begins with ``$``:
``{"$float": "NaN"}``, ``{"$bytes": "<base64>"}``. An object of the user's own that looks like one is written inside
``{"$object": ...}``. Lone surrogates are JSON escapes, which Python reads back.
"""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning.errors import AgentLightningError
from agentlightning.types.core import Attempt, Rollout
from agentlightning.types.record import SpanRecord
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from pydantic import BaseModel

DEEPEST = 500
"""Levels of nested data that are written; spans of a store have far fewer."""


class ImportFileError(AgentLightningError):
    """A file is not what it should be; the message says where and what to do."""


def dumps(value: object) -> str:
    """Return *value* as one line of JSON."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def model_object(model: BaseModel) -> dict[str, object]:
    """Return a rollout or an attempt as plain data."""
    return cast("dict[str, object]", exact(model.model_dump()))


def span_object(span: Span) -> dict[str, object]:
    """Return a span as plain data, its number in the rollout included."""
    record = msgspec.to_builtins(span.to_record(), builtin_types=(bytes,), str_keys=True)
    return cast("dict[str, object]", exact({"sequence_id": span.sequence_id, **record}))


def rollout_of(raw: object) -> Rollout:
    """Return the rollout that ``model_object`` wrote.

    Raises:
        ValueError: It is none.
    """
    return Rollout.model_validate(plain(raw))


def attempt_of(raw: object) -> Attempt:
    """Return the attempt that ``model_object`` wrote.

    Raises:
        ValueError: It is none.
    """
    return Attempt.model_validate(plain(raw))


def span_of(raw: object) -> Span:
    """Return the span that ``span_object`` wrote.

    Raises:
        ValueError: It is none.
    """
    fields = plain(raw)
    if not isinstance(fields, dict):
        msg = "a span is a JSON object"
        raise ValueError(msg)  # noqa: TRY004 - bad data in a file, as the others raise it
    named = dict(cast("dict[str, object]", fields))
    number = named.pop("sequence_id", 0)
    try:
        record = msgspec.convert(named, SpanRecord)
    except msgspec.ValidationError as error:
        msg = f"no span: {error}"
        raise ValueError(msg) from error
    return Span.from_record(record, number if isinstance(number, int) else 0)


def exact(value: object, depth: int = 0) -> object:
    """Return *value* in types that JSON holds, so that ``plain`` gives an equal value back; a tuple becomes a list."""
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode()}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if depth > DEEPEST:
        return repr(value)[:1000]
    if isinstance(value, dict):
        fields = {str(key): exact(item, depth + 1) for key, item in cast("dict[object, object]", value).items()}
        return {"$object": fields} if _looks_marked(fields) else fields
    if isinstance(value, (list, tuple)):
        items = cast("list[object]", value)
        # Token ids: a pass in C tells that there is nothing to do.
        return list(items) if set(map(type, items)) <= {int} else [exact(item, depth + 1) for item in items]
    return repr(value)[:1000]


def plain(value: object) -> object:
    """Undo ``exact``.

    Raises:
        ValueError: A mark holds what it cannot hold.
    """
    if isinstance(value, list):
        items = cast("list[object]", value)
        return items if set(map(type, items)) <= {int} else [plain(item) for item in items]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    if _looks_marked(fields):
        ((mark, held),) = fields.items()
        if mark == "$float" and isinstance(held, str):
            return float(held)
        if mark == "$bytes" and isinstance(held, str):
            return base64.b64decode(held, validate=True)
        if mark == "$object" and isinstance(held, dict):
            fields = cast("dict[str, object]", held)
    return {key: plain(item) for key, item in fields.items()}


def _looks_marked(fields: dict[str, object]) -> bool:
    return len(fields) == 1 and next(iter(fields)) in {"$float", "$bytes", "$object"}
