"""A store behind HTTP: the client of ``agl store serve`` and of ``LightningStoreServer``.

Calls run on threads of the client's own, so it works in any event loop, in several at once, and after a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from agentlightning import settings
from agentlightning._internal.failing import Telling
from agentlightning._internal.ids import new_attempt_id, new_resources_id
from agentlightning.errors import StoreError
from agentlightning.store import wire
from agentlightning.store.base import LightningStore
from agentlightning.store.batch_client import BatchClient, open_exchange
from agentlightning.store.exchange import Request
from agentlightning.store.lifecycle import QUEUEING
from agentlightning.store.pack import from_json, to_json
from agentlightning.types.change import ChangeCursor, Changes
from agentlightning.types.core import Attempt, AttemptedRollout, Rollout
from agentlightning.types.query import RolloutFilter, SpanRow, StoreStatistics
from agentlightning.types.resources import ResourcesUpdate
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Sequence

    from typing_extensions import Self

    from agentlightning.store.request import AttemptChange, NewRollouts, RolloutChange
    from agentlightning.types.core import RolloutStatus
    from agentlightning.types.record import WriteBatch, WriteResult
    from agentlightning.types.resources import NamedResources

HOLD_S = 10.0
"""Longest time that one request is held by the server until something happens; then the client asks again."""

_THREADS = 32
_ROLLOUTS = "/v1/rollouts"
_decode_statistics = msgspec.json.Decoder(StoreStatistics).decode


class LightningStoreClient(LightningStore):
    """The store contract over HTTP. Thread-safe; can be pickled; a second process or event loop may use a copy.

    Calls are repeated after errors of the network and while the server is busy or away. Those that create something
    carry an id made here, by which a server knows a repetition. A claim that stays without an answer until the retry
    budget is spent is asked for again by the next ``dequeue_rollout`` of the same worker.
    """

    def __init__(
        self,
        server_address: str,
        *,
        retry_delays: Sequence[float] | None = None,
        health_retry_delays: Sequence[float] = (0.1, 0.2, 0.5),
        project: str | None = None,
    ) -> None:
        """Use the server at *server_address*; nothing is sent yet.

        Args:
            server_address: ``http://host:port``, or several separated by commas, favourite first.
            retry_delays: Pauses in seconds before each repetition; None for the settings ``http_retry…``.
            health_retry_delays: The same for ``is_healthy``.
            project: Project of the handle; None for ``AGL_PROJECT``.
        """
        self.url = server_address
        self.project = project or settings.get(settings.PROJECT)
        self._delays = None if retry_delays is None else tuple(retry_delays)
        self._health_delays = tuple(health_retry_delays)
        self._open()

    def _open(self) -> None:
        self._exchange = open_exchange(self.url or "", self._delays)
        self._writer = BatchClient(self.url or "", self._exchange)
        self._threads = ThreadPoolExecutor(_THREADS, "agentlightning-client")
        self._unanswered = _Unanswered()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy in another process needs; connections stay here."""
        return {
            "url": self.url, "project": self.project, "_delays": self._delays, "_health_delays": self._health_delays
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a copy with connections of its own."""
        self.url, self.project = state["url"], state["project"]
        self._delays, self._health_delays = state["_delays"], state["_health_delays"]
        self._open()

    def with_project(self, project: str) -> Self:
        """Return a handle for another project; see ``LightningStore``."""
        handle = object.__new__(type(self))  # copy.copy() would open connections of its own, as pickling does
        vars(handle).update(vars(self))
        handle.project = project
        return handle

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch of the pipeline; see ``LightningStore``."""
        return self._writer.write_batch(batch)

    def switch_server(self) -> bool:
        """Use the next server for a while; False when only one was given."""
        return self._exchange.switch()

    async def is_healthy(self) -> bool:
        """Tell whether a server answers and its store can be read."""
        exchange = open_exchange(self.url or "", self._health_delays)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, exchange.send, Request("GET", "/ready"))
        except StoreError:
            return False
        finally:
            exchange.close()
        return True

    # --- rollouts ---

    async def add_started(self, new: NewRollouts) -> AttemptedRollout:
        """Create a rollout with its first attempt; see ``LightningStore``."""
        body = _shared(new) | {"input": new.inputs[0], "rollout_id": new.ids()[0]}
        return AttemptedRollout.model_validate(await self._post(f"{_ROLLOUTS}/start", body))

    async def add_queued(self, new: NewRollouts) -> list[Rollout]:
        """Put rollouts into the queue; see ``LightningStore``."""
        body = _shared(new) | {"inputs": list(new.inputs), "rollout_ids": new.ids()}
        return _rollouts(await self._post(f"{_ROLLOUTS}/enqueue", body))

    async def dequeue_rollout(
        self, *, worker_id: str | None = None, lease_s: float | None = None, attempt_id: str | None = None
    ) -> AttemptedRollout | None:
        """Claim the oldest rollout of the queue; see ``LightningStore``."""
        claimant = (self.project, worker_id, lease_s)
        claim = attempt_id or self._unanswered.take(claimant) or new_attempt_id()
        body = {"worker_id": worker_id, "lease_s": lease_s, "attempt_id": claim}

        def keep(_: BaseException) -> None:
            """Ask for the same claim the next time: the server may have made it, also when this was cancelled."""
            if attempt_id is None:
                self._unanswered.keep(claimant, claim)

        with Telling(keep):
            answer = await self._post(f"{_ROLLOUTS}/dequeue", body)
        return None if answer is None else AttemptedRollout.model_validate(answer)

    async def start_attempt(self, rollout_id: str, *, attempt_id: str | None = None) -> AttemptedRollout:
        """Make a further attempt; see ``LightningStore``."""
        body = {"attempt_id": attempt_id or new_attempt_id()}
        return AttemptedRollout.model_validate(await self._post(f"{_path(rollout_id)}/attempts", body))

    async def heartbeat(self, rollout_id: str, attempt_id: str) -> Attempt:
        """Note that an attempt is alive; see ``LightningStore``."""
        return Attempt.model_validate(await self._post(f"{_path(rollout_id, attempt_id)}/heartbeat", {}))

    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        """Wait until rollouts are finished; see ``LightningStore``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = HOLD_S if deadline is None else min(HOLD_S, max(0.0, deadline - time.monotonic()))
            body = {"rollout_ids": rollout_ids, "timeout": left}
            answer = await self._post(f"{_ROLLOUTS}/wait", body, timeout_s=left + HOLD_S)
            if answer["complete"] or (deadline is not None and time.monotonic() >= deadline):
                return _rollouts(answer["rollouts"])

    async def query_rollouts(
        self,
        *,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        where: RolloutFilter | None = None,
    ) -> list[Rollout]:
        """Return the project's rollouts; see ``LightningStore``."""
        body = {
            "status": None if status is None else list(status),
            "rollout_ids": None if rollout_ids is None else list(rollout_ids),
            "where": where,
        }
        return _rollouts(await self._post(f"{_ROLLOUTS}/query", body))

    async def query_newest_rollouts(self, limit: int = 20, offset: int = 0, *, children: bool = False) -> list[Rollout]:
        """Return the project's newest rollouts; see ``LightningStore``."""
        query = {"limit": str(limit), "offset": str(offset), "children": str(children).lower()}
        return _rollouts(await self._get(f"{_ROLLOUTS}/newest", query))

    async def query_child_rollouts(self, rollout_id: str) -> list[Rollout]:
        """Return the rollouts that ran inside another; see ``LightningStore``."""
        return _rollouts(await self._get(f"{_path(rollout_id)}/children"))

    async def find_rollout_id(self, text: str) -> str:
        """Return the id of the rollout that *text* means; see ``LightningStore``."""
        return str(await self._get(f"{_ROLLOUTS}/find", {"text": text}))

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """Return a rollout or None; see ``LightningStore``."""
        answer = await self._get(_path(rollout_id))
        return None if answer is None else Rollout.model_validate(answer)

    async def query_attempts(self, rollout_id: str) -> list[Attempt]:
        """Return the attempts of a rollout; see ``LightningStore``."""
        return [Attempt.model_validate(item) for item in await self._get(f"{_path(rollout_id)}/attempts")]

    async def change_rollout(self, rollout_id: str, change: RolloutChange) -> Rollout:
        """Change the fields that are given; see ``LightningStore``."""
        body = change.given()
        if body.get("status") in QUEUEING:
            body["attempt_count"] = len(await self.query_attempts(rollout_id))  # the request may be repeated
        if "config" in body:
            body["config"] = body["config"].model_dump(mode="json")
        return Rollout.model_validate(await self._send("PATCH", _path(rollout_id), body=to_json(body).encode()))

    async def change_attempt(self, rollout_id: str, attempt_id: str, change: AttemptChange) -> Attempt:
        """Change the fields that are given; see ``LightningStore``."""
        body = to_json(change.given()).encode()
        return Attempt.model_validate(await self._send("PATCH", _path(rollout_id, attempt_id), body=body))

    # --- spans ---

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Insert spans by the key rule; see ``LightningStore``."""
        body = wire.encode([wire.NumberedSpan(span.to_record(), span.sequence_id) for span in spans])
        answer = await self._raw(Request("POST", "/v1/spans", body=body, content_type=wire.MSGPACK))
        return _spans(answer)

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve the next number of a rollout; see ``LightningStore``."""
        return int(await self._post(f"{_path(rollout_id, attempt_id)}/sequence", {}))

    async def query_spans(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = False
    ) -> list[Span]:
        """Return the spans of a rollout in full; see ``LightningStore``."""
        query = {"include_open": str(include_open).lower()} | ({"attempt_id": attempt_id} if attempt_id else {})
        answer = await self._raw(Request("GET", f"{_path(rollout_id)}/spans", query, headers={"accept": wire.MSGPACK}))
        return await asyncio.get_running_loop().run_in_executor(self._threads, _spans, answer)

    async def query_span_rows(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = True
    ) -> list[SpanRow]:
        """Return the shape of a rollout; see ``LightningStore``."""
        query = {"include_open": str(include_open).lower()} | ({"attempt_id": attempt_id} if attempt_id else {})
        request = Request("GET", f"{_path(rollout_id)}/span-rows", query, headers={"accept": wire.MSGPACK})
        return wire.decode_rows(await self._raw(request))

    async def query_spans_by_key(self, keys: Sequence[tuple[str, str]]) -> list[Span]:
        """Return spans in full by trace and span id; see ``LightningStore``."""
        body = wire.encode_any([list(key) for key in keys])
        return _spans(await self._raw(Request("POST", "/v1/spans/by-key", body=body, content_type=wire.MSGPACK)))

    async def query_changes(self, after: ChangeCursor | None = None, *, wait_s: float = 0.0) -> Changes:
        """Return what happened since a cursor; see ``LightningStore``."""
        query = {"wait_s": f"{min(wait_s, HOLD_S):.3f}"} if wait_s > 0 else {}
        body, timeout_s = wire.encode_any(after), HOLD_S + min(wait_s, HOLD_S)
        request = Request("POST", "/v1/changes", query, body, wire.MSGPACK, timeout_s=timeout_s)
        answer = wire.decode_changes(await self._raw(request))
        return Changes(answer.cursor, _rollouts(answer.rollouts), answer.spans)

    async def find_attempt_of_trace(self, trace_id: str) -> tuple[str, str] | None:
        """Return the newest attempt with a span of a trace; see ``LightningStore``."""
        answer = await self._get(f"/v1/traces/{quote(trace_id, safe='')}/attempt")
        return None if answer is None else (answer[0], answer[1])

    # --- resources and housekeeping ---

    async def add_resources(self, resources: NamedResources, *, resources_id: str | None = None) -> ResourcesUpdate:
        """Store a snapshot of resources; see ``LightningStore``."""
        update = ResourcesUpdate(resources_id=resources_id or new_resources_id(), resources=resources)
        return ResourcesUpdate.model_validate(await self._post("/v1/resources", update.model_dump(mode="json")))

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Replace a snapshot; see ``LightningStore``."""
        body = ResourcesUpdate(resources_id="", resources=resources).model_dump(mode="json")["resources"]
        path = f"/v1/resources/{quote(resources_id, safe='')}"
        answer = await self._send("PUT", path, body=to_json({"resources": body}).encode())
        return ResourcesUpdate.model_validate(answer)

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Return a snapshot or None; see ``LightningStore``."""
        answer = await self._get(f"/v1/resources/{quote(resources_id, safe='')}")
        return None if answer is None else ResourcesUpdate.model_validate(answer)

    async def get_latest_resources(self, name: str | None = None) -> ResourcesUpdate | None:
        """Return the latest snapshot or None; see ``LightningStore``."""
        answer = await self._get("/v1/latest-resources", {} if name is None else {"name": name})
        return None if answer is None else ResourcesUpdate.model_validate(answer)

    async def delete_rollouts(self, rollout_ids: Sequence[str]) -> int:
        """Delete rollouts; see ``LightningStore``."""
        return int(await self._post(f"{_ROLLOUTS}/delete", {"rollout_ids": list(rollout_ids)}))

    async def prune(self, *, before: float | None = None, keep: int | None = None) -> int:
        """Delete what retention no longer wants; see ``LightningStore``."""
        return int(await self._post(f"{_ROLLOUTS}/prune", {"before": before, "keep": keep}))

    async def statistics(self) -> StoreStatistics:
        """Count what the store holds; see ``LightningStore``."""
        return _decode_statistics(await self._raw(Request("GET", "/v1/statistics")))

    # --- plumbing ---

    def after_fork(self) -> None:
        """Make the client usable in a forked child; see ``LightningStore``."""
        self._open()

    def close(self) -> Awaitable[None]:
        """Close the connections; may be awaited, and a later call opens new ones."""
        self._exchange.close()
        return _Done()

    async def _get(self, path: str, query: dict[str, str] | None = None) -> Any:  # noqa: ANN401 - any JSON value
        return from_json(await self._raw(Request("GET", path, query or {})))

    async def _post(self, path: str, body: object, *, timeout_s: float | None = None) -> Any:  # noqa: ANN401 - any JSON value
        return await self._send("POST", path, body=to_json(body).encode(), timeout_s=timeout_s)

    async def _send(self, method: str, path: str, *, body: bytes, timeout_s: float | None = None) -> Any:  # noqa: ANN401 - any JSON value
        return from_json(await self._raw(Request(method, path, body=body, timeout_s=timeout_s)))

    async def _raw(self, request: Request) -> bytes:
        if self._pid != os.getpid():
            self._open()  # after a fork: threads and connections are the parent's
        headers = {**request.headers, wire.PROJECT_HEADER: wire.quoted(self.project)}
        request = dataclasses.replace(request, headers=headers)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._exchange.send, request)


class _Unanswered:
    """Claims of which nobody knows whether they were made, by who asked. Thread-safe."""

    def __init__(self) -> None:
        self._claims: deque[tuple[object, str]] = deque(maxlen=1_000)

    def keep(self, claimant: object, attempt_id: str) -> None:
        """Keep a claim for the next question of the same claimant; the oldest is forgotten first."""
        self._claims.append((claimant, attempt_id))

    def take(self, claimant: object) -> str | None:
        """Return a claim of *claimant* and forget it."""
        for item in list(self._claims):
            if item[0] == claimant:
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._claims.remove(item)
                    return item[1]
        return None


class _Done:
    """An awaitable that is done: ``close`` works with and without ``await``."""

    def __await__(self) -> Generator[None, None, None]:
        """Return at once."""
        return
        yield


def _path(rollout_id: str, attempt_id: str | None = None) -> str:
    path = f"{_ROLLOUTS}/{quote(rollout_id, safe='')}"
    return path if attempt_id is None else f"{path}/attempts/{quote(attempt_id, safe='')}"


def _shared(new: NewRollouts) -> dict[str, object]:
    limits = None if new.config is None else new.config.model_dump(mode="json")
    return {"mode": new.mode, "resources_id": new.resources_id, "config": limits, "metadata": new.metadata}


def _rollouts(items: Sequence[object]) -> list[Rollout]:
    return [Rollout.model_validate(item) for item in items]


def _spans(body: bytes) -> list[Span]:
    return [Span.from_record(item.record, item.sequence_id) for item in wire.decode_spans(body)]
