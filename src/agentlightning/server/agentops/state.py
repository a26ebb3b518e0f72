"""What the AgentOps routes need of the server, carried by each request's scope."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentlightning.server.fence import FencedStore
from agentlightning.server.gate import write_audit
from agentlightning.server.routes.state import state_of

if TYPE_CHECKING:
    from fastapi import Request

    from agentlightning.server.agentops.access import AgentOpsRules, Keys
    from agentlightning.server.agentops.service import Upload
    from agentlightning.server.agentops.signer import Signer
    from agentlightning.server.gate import App, Receive, Scope, Send
    from agentlightning.store.base import LightningStore

_SCOPE_KEY = "agentlightning.agentops"


@dataclass
class AgentOpsState:
    """The parts that the routes use; one event loop."""

    rules: AgentOpsRules
    signer: Signer
    keys: Keys
    project: str
    """Project of those who do not say who they are."""
    mode: str = "LOCAL"
    upload: Upload | None = None
    """What brings spans to the service; None in the mode LOCAL."""
    traces_of_spans: dict[str, str] = field(default_factory=dict[str, str])
    """Trace of spans that somebody was told about: the public API asks for a span by its own id alone."""

    def project_of(self, request: Request) -> str:
        """Return the project of the token of *request*, else the server's; never what a resource claims."""
        claims = self.rules.claims(dict(request.headers))
        return self.project if claims is None else claims.project

    def store_of(self, request: Request) -> LightningStore:
        """Return the handle of that project; for a token that is bound to it one that shows no other.

        Raises:
            AccessError: The token is bound, and the store cannot keep projects apart.
        """
        store = state_of(request).store
        bound: str | None = request.scope.get("agentlightning.project")  # as the gate found it, before the body came
        if bound is not None:
            return FencedStore(store, bound)
        project = self.project_of(request)
        return store if project == store.project else store.with_project(project)


class WithState:
    """ASGI application that gives each request the state."""

    def __init__(self, app: App, state: AgentOpsState) -> None:
        """Stand before *app*."""
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        scope[_SCOPE_KEY] = self._state
        await self._app(scope, receive, send)


def agentops_of(request: Request) -> AgentOpsState:
    """Return the state of the server that got *request*."""
    state: AgentOpsState = request.scope[_SCOPE_KEY]
    return state


def audit(request: Request, event: str, *fields: object) -> None:
    """Write an audit line: what happened, who, the project; never a key, a token or content."""
    peer = request.client.host if request.client else None
    write_audit(event, peer, agentops_of(request).project_of(request), *fields)
