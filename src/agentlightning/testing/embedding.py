"""Answers of ``POST /v1/embeddings``: short unit vectors made from a checksum of the text."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

from agentlightning.testing.json_value import Json, JsonObject, as_count, as_text
from agentlightning.testing.request import BadRequestError
from agentlightning.testing.tokenizer import pieces

_DEFAULT_DIMENSIONS = 8
_MAX_DIMENSIONS = 4096


def embeddings(body: JsonObject) -> JsonObject:
    """Return one vector for each text of the request, as numbers or in base64 as asked.

    Raises:
        BadRequestError: The input is neither a text nor a list of texts.
    """
    texts = _texts(body.get("input"))
    dimensions = min(as_count(body.get("dimensions"), _DEFAULT_DIMENSIONS), _MAX_DIMENSIONS)
    count = sum(len(pieces(text)) for text in texts)
    data: list[Json] = []
    for place, text in enumerate(texts):
        vector = vector_of(text, dimensions)
        encoded = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode("ascii")
        shown: Json = encoded if body.get("encoding_format") == "base64" else [*vector]
        data.append({"object": "embedding", "index": place, "embedding": shown})
    return {
        "object": "list",
        "data": data,
        "model": as_text(body.get("model")),
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def vector_of(text: str, dimensions: int) -> list[float]:
    """Return a vector of length 1 that depends on *text* only."""
    digest = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    raw = [value - 32767.5 for value in struct.unpack(f"<{dimensions}H", digest)]
    length = math.sqrt(sum(value * value for value in raw))
    return [value / length for value in raw]


def _texts(value: Json) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if isinstance(items, list) and items:
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) == len(items):
            return texts
    msg = "'input' must be a string or a list of strings"
    raise BadRequestError(msg)
