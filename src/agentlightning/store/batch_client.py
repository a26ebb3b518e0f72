"""The writing half of the HTTP client: what a traced program loads, without models and event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentlightning import settings
from agentlightning.errors import StoreError
from agentlightning.store import wire
from agentlightning.store.exchange import Exchange, Request, RetryPolicy
from agentlightning.types.record import WriteBatch, WriteResult

if TYPE_CHECKING:
    from collections.abc import Sequence

_decode_result = msgspec.json.Decoder(WriteResult).decode

BATCH_DELAYS = (0.1, 0.4)
"""Pauses of the pipeline's writer, which has a retry policy and a journal of its own."""


def addresses_of(url: str) -> list[str]:
    """Return the addresses in *url*: one, or several separated by commas, favourite first.

    Raises:
        StoreError: One of them is not ``http://host`` or ``https://host``.
    """
    addresses = [part.strip() for part in url.split(",") if part.strip()]
    for address in addresses:
        scheme, _, rest = address.partition("://")
        if scheme.lower() not in {"http", "https"} or not rest.strip("/"):
            msg = f"{address!r} is no address of a store; write http://host:{wire.DEFAULT_PORT}"
            raise StoreError(msg)
    return addresses


def open_exchange(url: str, delays: Sequence[float] | None = None) -> Exchange:
    """Return the way to the servers in *url*, with token and certificates of the settings."""
    policy = RetryPolicy.from_settings(delays)
    token, ca_file = settings.get(settings.STORE_TOKEN), settings.get(settings.STORE_CA)
    return Exchange(addresses_of(url), policy, token=token, ca_file=ca_file)


class BatchClient:
    """Writes batches of the pipeline to a server, one request each. Thread-safe."""

    def __init__(self, url: str, exchange: Exchange | None = None) -> None:
        """Write to the server at *url*; nothing is sent yet."""
        self.url: str | None = url
        self._exchange = exchange or open_exchange(url, BATCH_DELAYS)

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch durably; one that is too large for the server is sent in halves, first half first.

        Raises:
            StoreUnavailableError: No server took it; it may be sent again.
            StoreError: The server refuses it, or a single span is too large for it.
        """
        request = Request(
            "POST",
            "/v1/batches",
            body=wire.encode(batch),
            content_type=wire.MSGPACK,
            headers={wire.PROJECT_HEADER: wire.quoted(batch.project)},
        )
        try:
            return _decode_result(self._exchange.send(request))
        except wire.BodyTooLargeError:
            if len(batch.spans) <= 1:
                raise
        middle = len(batch.spans) // 2
        starts = msgspec.structs.replace(batch, spans=batch.spans[:middle], ends=[])
        ends = msgspec.structs.replace(batch, spans=batch.spans[middle:], starts=[])
        first, second = self.write_batch(starts), self.write_batch(ends)
        return WriteResult(
            first.stored + second.stored, first.duplicate + second.duplicate, first.rejected + second.rejected
        )

    def switch_server(self) -> bool:
        """Use the next server for a while; False when only one was given. Thread-safe."""
        return self._exchange.switch()

    def after_fork(self) -> None:
        """Make the client usable in a forked child."""
        self._exchange.after_fork()

    def close(self) -> None:
        """Close the connections; a later batch opens new ones."""
        self._exchange.close()
