"""A small tokenizer that gives the same ids on every machine and run.

A text is cut into words of at most eight characters, each with the white space before it, and single marks; joined,
the pieces are the text again. An id is a checksum of its piece, below 50,000. This is no tokenizer of any model.
"""

from __future__ import annotations

import re
import zlib

_PIECE = re.compile(r"\s*(?:\w{1,8}|[^\w\s])|\s+")
_VOCABULARY_SIZE = 50_000


def pieces(text: str) -> list[str]:
    """Return *text* cut into tokens; ``"".join(pieces(text)) == text``."""
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
