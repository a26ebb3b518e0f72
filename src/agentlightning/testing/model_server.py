"""A model server on loopback that speaks the OpenAI API over real HTTP, for tests, demos and benchmarks.

Standard library only. It answers by a script or by a rule, reports usage, token ids and log-probabilities, counts ids
and times from fixed numbers so that every run is the same, and fails in the ways real servers fail. Run it alone with
``python -m agentlightning.testing.model_server --port 0``; it prints its URL.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import threading
from typing import TYPE_CHECKING, get_args

from agentlightning.testing.answer import CREATED, Answer, TokenDialect
from agentlightning.testing.chat import chat_chunks, chat_completion
from agentlightning.testing.completion import completion, completion_chunks
from agentlightning.testing.dialect import check_token_request
from agentlightning.testing.embedding import embeddings
from agentlightning.testing.reply import Reply
from agentlightning.testing.request import BadRequestError, ChatRequest, Endpoint, read_request
from agentlightning.testing.response import response, response_events
from agentlightning.testing.rule import AgentRule, Rule, echo
from agentlightning.testing.wire import Outgoing, ReceivedRequest, Server, error_body

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from agentlightning.testing.json_value import Json, JsonObject

__all__ = ["ModelServer", "ReceivedRequest", "main"]

_ENDPOINTS: dict[str, Endpoint] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/responses": "responses",
}
_MODELS = ("gpt-4o-mini", "gpt-5-mini", "text-embedding-3-small")


class ModelServer:
    """An OpenAI-compatible server; use as ``with ModelServer(["Hello"]) as server:``.

    Every method may be called from any thread. A server is started and closed once; both are safe to repeat.
    """

    def __init__(
        self,
        answers: Rule | Sequence[Reply | str] = echo,
        *,
        port: int = 0,
        token_ids: TokenDialect | None = None,
        nan_logprobs: bool = False,
    ) -> None:
        """Bind to 127.0.0.1; nothing is answered before ``start``.

        Args:
            answers: Replies that are used up one for each request, in the order in which the requests come (after the
                last one, status 400 says so), or a rule that is called for each request.
            port: 0 takes any free one.
            token_ids: Where token ids are, see ``agentlightning.testing.dialect``. Like the real servers,
                all but ``vllm-old`` send them only to a request with ``return_token_ids: true``.
            nan_logprobs: The first log-probability of each choice is NaN.
        """
        self._rule = answers if callable(answers) else _Script(answers)
        self._dialect: TokenDialect | None = token_ids
        self._nan_logprobs = nan_logprobs
        self._numbers = itertools.count(1)
        self._http = Server(port, self._answer)
        self._thread = threading.Thread(target=self._http.serve, name="agentlightning-model-server", daemon=True)

    @property
    def url(self) -> str:
        """Base URL for clients, ``http://127.0.0.1:PORT/v1``."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that send an OpenAI client of another process here."""
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": "sk-testing"}

    @property
    def requests(self) -> tuple[ReceivedRequest, ...]:
        """Every request so far, in the order of arrival."""
        return tuple(self._http.requests)

    def start(self) -> ModelServer:
        """Answer requests in threads of their own."""
        if self._thread.ident is None:
            self._thread.start()
        return self

    def close(self) -> None:
        """Stop answering, break every connection and end every wait."""
        self._http.stop()
        if self._thread.ident is not None:
            self._thread.join()
        self._http.server_close()

    def __enter__(self) -> ModelServer:  # noqa: PYI034 - typing.Self is of Python 3.11
        """Start."""
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _answer(self, received: ReceivedRequest) -> Outgoing:
        try:
            return self._route(received)
        except BadRequestError as error:
            return Outgoing(Reply(status=400), error_body(str(error), "invalid_request_error"))

    def _route(self, received: ReceivedRequest) -> Outgoing:
        path = received.path.removeprefix("/v1").rstrip("/")
        if received.method == "GET" and (path == "/models" or path.startswith("/models/")):
            return Outgoing(Reply(), _models(path.removeprefix("/models").strip("/")))
        endpoint = _ENDPOINTS.get(path)
        if received.method != "POST" or (endpoint is None and path != "/embeddings"):
            msg = f"there is nothing at {received.method} {received.path}"
            return Outgoing(Reply(status=404), error_body(msg, "not_found_error"))
        if not isinstance(received.body, dict):
            msg = "the body must be a JSON object"
            raise BadRequestError(msg)
        if endpoint is None:
            return Outgoing(Reply(), embeddings(received.body))
        return self._generate(read_request(endpoint, received.body, next(self._numbers)))

    def _generate(self, request: ChatRequest) -> Outgoing:
        try:
            said = self._rule(request)
        except BadRequestError:
            raise
        except Exception as error:  # noqa: BLE001 - the rule is the caller's code and this is a request boundary
            said = Reply(f"the rule failed: {error!r}", status=500)
        reply = Reply(said) if isinstance(said, str) else said
        if reply.status >= 400:  # noqa: PLR2004 - the first of HTTP's error codes
            return Outgoing(reply, error_body(reply.text or "injected failure", _error_kind(reply.status)))
        answer = Answer(request, reply, self._dialect, self._nan_logprobs)
        check_token_request(answer)
        if request.stream:
            return Outgoing(reply, events=_events(answer), named_events=request.endpoint == "responses")
        whole = {"chat": chat_completion, "completions": completion, "responses": response}[request.endpoint]
        return Outgoing(reply, whole(answer))


class _Script:
    """A rule that hands out replies one after the other."""

    def __init__(self, replies: Sequence[Reply | str]) -> None:
        self._replies = list(replies)
        self._lock = threading.Lock()
        self._next = 0

    def __call__(self, request: ChatRequest) -> Reply | str:
        with self._lock:
            place = self._next
            self._next += 1
        if place >= len(self._replies):
            msg = f"the script has {len(self._replies)} replies, and this is request {request.number}"
            raise BadRequestError(msg)
        return self._replies[place]


def _events(answer: Answer) -> Iterator[JsonObject]:
    writers = {"chat": chat_chunks, "completions": completion_chunks, "responses": response_events}
    return writers[answer.request.endpoint](answer)


def _error_kind(status: int) -> str:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    return kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")  # noqa: PLR2004


def _models(name: str) -> JsonObject:
    """Return the list of models, or the one called *name*; any name is a model here."""
    if name:
        return _model(name)
    entries: list[Json] = [_model(model) for model in _MODELS]
    return {"object": "list", "data": entries}


def _model(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "testing"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; print the URL first."""
    parser = argparse.ArgumentParser(prog="python -m agentlightning.testing.model_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one (default)")
    parser.add_argument("--token-ids", choices=get_args(TokenDialect), help="send token ids of this shape")
    parser.add_argument("--rule", choices=["agent", "echo"], default="echo", help="how to answer (default: echo)")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    rule = AgentRule() if options.rule == "agent" else echo
    with ModelServer(rule, port=options.port, token_ids=options.token_ids) as server:
        print(server.url, flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
