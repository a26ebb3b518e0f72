"""A small tokenizer that gives the same ids on every machine and run.

A text is cut into words of at most eight characters, each with the white space before it, and single marks; joined,
the pieces are the text again. An id is a checksum of its piece, below 50,000. This is no tokenizer of any model.
"""

from __future__ import annotations

import re
import zlib

_PIECE = re.compile(r"\s*(?:\w{1,8}|[^\w\s])|\s+")
_VOCABULARY_SIZE = 50_000
_LONG_TEXT = 1_000_000
_LONG_PIECE = 4096


def pieces(text: str) -> list[str]:
    """Return *text* cut into tokens; ``"".join(pieces(text)) == text``.

    A text of more than a million characters is cut into blocks of 4,096 instead: tests send messages of 200 MB, and
    words would take half a minute.
    """
    if len(text) > _LONG_TEXT:
        return [text[place : place + _LONG_PIECE] for place in range(0, len(text), _LONG_PIECE)]
    return _PIECE.findall(text)


def ids_of(tokens: list[str]) -> list[int]:
    """Return the id of each token, 0 to 49,999."""
    return [zlib.crc32(token.encode("utf-8", "surrogatepass")) % _VOCABULARY_SIZE for token in tokens]


def token_ids(text: str) -> list[int]:
    """Return the ids of *text*, as the model server reports them."""
    return ids_of(pieces(text))


def logprob(token: str) -> float:
    """Return the log-probability that the model server reports for *token*: fixed, between -3 and 0."""
    return -(zlib.crc32(token.encode("utf-8", "surrogatepass")) % 3000) / 1000
