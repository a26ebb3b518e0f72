"""HTTP/1.1 for the model server: keep-alive, chunked streams, and connections that break on request."""

from __future__ import annotations

import contextlib
import http.server
import json
import select
import socket
import socketserver
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentlightning.testing.json_value import Json, JsonObject
    from agentlightning.testing.reply import Reply

_HANG_POLL_S = 0.05


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as the server got it."""

    method: str
    path: str
    """Without the query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Json
    """None when there was none, or when it was no JSON."""


@dataclass(frozen=True)
class Outgoing:
    """What goes back: a body, or the events of a stream, in the manner of *reply*."""

    reply: Reply
    body: JsonObject | None = None
    events: Iterator[JsonObject] | None = None
    named_events: bool = False
    """Each event has a line with its type, and nothing follows the last one (``/v1/responses``)."""


def error_body(message: str, kind: str) -> JsonObject:
    """Return the error object of the OpenAI API."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


class Server(socketserver.ThreadingTCPServer):
    """A loopback server with one thread for each connection.

    Not ``http.server.ThreadingHTTPServer``: that one looks up the name of its address when it binds, which takes
    seconds on a machine with a broken resolver.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, answer: Callable[[ReceivedRequest], Outgoing]) -> None:
        """Bind to *port* of 127.0.0.1; *answer* is called from many threads."""
        self.answer = answer
        self.requests: list[ReceivedRequest] = []
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def serve(self) -> None:
        """Answer until ``stop`` is called; unlike ``serve_forever`` it sleeps until something comes."""
        while not self.closing.is_set():
            self.handle_request()

    def stop(self) -> None:
        """End ``serve`` and every wait of a handler."""
        self.closing.set()
        with contextlib.suppress(OSError):  # it was stopped and closed before
            socket.create_connection(("127.0.0.1", self.server_address[1]), timeout=1).close()

    def server_close(self) -> None:
        """Stop listening and break every connection, so that no handler thread stays."""
        super().server_close()
        for connection in list(self._connections):
            _shut(connection)

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: tuple[str, int]
    ) -> None:
        """Remember the connection."""
        if isinstance(request, socket.socket):
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Forget the connection."""
        if isinstance(request, socket.socket):
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: tuple[str, int]
    ) -> None:
        """Print errors of our own; a client that went away is none."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    @property
    def _owner(self) -> Server:
        return cast("Server", self.server)

    def do_GET(self) -> None:
        """Answer as the script says."""
        self._serve()

    def do_POST(self) -> None:
        """Answer as the script says."""
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Print nothing: stderr belongs to the program under test."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no HTTP request, as JSON like every other error."""
        self.close_connection = True
        self.request_version = "HTTP/1.1"  # not yet set when the request line is garbage
        self._send_body(code, {}, json.dumps(error_body(message or explain or "bad request", "invalid_request_error")))

    def _serve(self) -> None:
        received = self._receive()
        if received is None:
            return
        self._owner.requests.append(received)
        out = self._owner.answer(received)
        if out.reply.delay_s and self._owner.closing.wait(out.reply.delay_s):
            self.close_connection = True
        elif out.reply.fault in ("hang", "drop"):
            self._leave(hang=out.reply.fault == "hang")
        elif out.events is not None and out.reply.fault is None:
            self._stream(out, out.events)
        else:
            text = out.reply.malformed or json.dumps(out.body)
            self._send_body(out.reply.status, out.reply.headers, text, half=out.reply.fault == "half")

    def _receive(self) -> ReceivedRequest | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isascii() or not length.isdigit():
            self.send_error(411, "send the body with a Content-Length")
            return None
        raw = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        return ReceivedRequest(self.command, self.path.split("?")[0], headers, _parse(raw))

    def _send_body(self, status: int, headers: Mapping[str, str], text: str, *, half: bool = False) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self._send_more_headers(headers)
        self.wfile.write(raw[: len(raw) // 2] if half else raw)
        self.wfile.flush()
        if half:
            self._leave(hang=False)

    def _send_more_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _stream(self, out: Outgoing, events: Iterator[JsonObject]) -> None:
        reply = out.reply
        self.send_response(reply.status)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self._send_more_headers(reply.headers)
        self.wfile.flush()
        for number, event in enumerate(events):
            if number == reply.break_after_chunks or self._owner.closing.wait(reply.chunk_delay_s):
                self._leave(hang=False)
                return
            name = f"event: {event['type']}\n" if out.named_events else ""
            self._send_chunk(f"{name}data: {reply.malformed or json.dumps(event)}\n\n")
            if reply.malformed:
                break
        if not out.named_events:
            self._send_chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _send_chunk(self, text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        self.wfile.write(b"%x\r\n%b\r\n" % (len(raw), raw))
        self.wfile.flush()

    def _leave(self, *, hang: bool) -> None:
        """Close the connection as it is, at once or when one of the two sides ends the wait."""
        while hang and not self._owner.closing.wait(_HANG_POLL_S):
            readable = select.select([self.connection], [], [], 0)[0]
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                break
        self.close_connection = True
        _shut(self.connection)


def _parse(raw: bytes) -> Json:
    try:
        return json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        return None


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster
