"""What every route needs of the application."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.responses import Response

from agentlightning.pipeline.redaction import Redactor
from agentlightning.server.fence import FencedStore
from agentlightning.store import wire
from agentlightning.store.pack import to_json

if TYPE_CHECKING:
    from fastapi import Request

    from agentlightning.server.gate import Gate
    from agentlightning.store.base import LightningStore


@dataclass
class ServerState:
    """The store that is served, and counts for ``/metrics``."""

    store: LightningStore
    gate: Gate | None = None
    redactor: Redactor = field(init=False)
    redacting: threading.Lock = field(default_factory=threading.Lock)
    """Held while the redactor works: it is made for one thread."""
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        """Redact with the key of the store that is served."""
        self.redactor = Redactor(store_url=self.store.url)

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter; event loop only."""
        self.counts[name] = self.counts.get(name, 0) + number

    def store_of(self, request: Request) -> LightningStore:
        """Return the handle of the project that a request names, or the server's own.

        Of a store behind a token that is bound to a project, nothing of other projects can be reached.
        """
        bound: str | None = request.scope.get("agentlightning.project")
        if bound is not None:
            return FencedStore(self.store, bound)
        project = unquote(request.headers.get(wire.PROJECT_HEADER, ""))
        return self.store if project in {"", self.store.project} else self.store.with_project(project)


def state_of(request: Request) -> ServerState:
    """Return the state of the application that serves *request*."""
    state: ServerState = request.app.state.agentlightning
    return state


def json_reply(value: object) -> Response:
    """Return *value* as JSON."""
    return Response(to_json(value).encode(), media_type=wire.JSON)
