"""Which backends understand ``return_token_ids``: those whose list of models says that they are vLLM or SGLang."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING

from agentlightning.server.proxy.upstream import Outgoing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.server.proxy.backend import Backend
    from agentlightning.server.proxy.upstream import Upstream

CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
_TIMEOUT_S = 2.0
AGAIN_S = 30.0
"""So long after a try without an answer that says something, the next one."""
_NO_LIST = frozenset({400, 404, 405, 410, 501})
"""Statuses of servers that have no list of models, whoever asks and whenever."""
_OK = 200
_SERVERS = frozenset({"vllm", "sglang"})


class TokenIds:
    """Remembers what servers said; one event loop."""

    def __init__(self, upstream: Upstream) -> None:
        """Ask by *upstream*."""
        self._upstream = upstream
        self._found: dict[str, tuple[bool, float]] = {}
        """By endpoint: whether it understands, and until when that is believed, by the loop's clock."""

    async def understands(self, backend: Backend, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Tell whether *backend* does, which is asked with the credentials among *headers*, those of a request to it.

        A server is asked once, but for tries that told nothing: it did not answer in time, was starting, or did not
        take the credentials. After one of these it counts as one that does not, for ``AGAIN_S``.
        """
        if backend.token_ids is not None:
            return backend.token_ids
        now = asyncio.get_running_loop().time()
        is_known, until = self._found.get(backend.endpoint, (False, now))
        if until > now:
            return is_known
        credentials = [pair for pair in headers if pair[0] in CREDENTIALS]
        try:
            found = await asyncio.wait_for(self._ask(backend, credentials), _TIMEOUT_S)
        except (OSError, asyncio.TimeoutError):
            found = None
        known = self._found.get(backend.endpoint, (False, 0.0))  # another request may have been told meanwhile
        if found is not None:
            known = (found, math.inf)
        elif known[1] <= now:
            known = (False, now + AGAIN_S)
        self._found[backend.endpoint] = known
        return known[0]

    async def _ask(self, backend: Backend, credentials: Sequence[tuple[bytes, bytes]]) -> bool | None:
        """Return what the list of models says; None where there was none to read now."""
        answer = await self._upstream.send(Outgoing(b"GET", backend.url("/models"), credentials, b""))
        try:
            await answer.head()
            if answer.status in _NO_LIST:
                return False
            return _says(await answer.read()) if answer.status == _OK else None
        finally:
            answer.close()


def _says(body: bytes) -> bool | None:
    try:
        models = json.loads(body)["data"]
        return any(model.get("owned_by") in _SERVERS for model in models) if models else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
