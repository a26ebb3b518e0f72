"""Requests as odd clients write them: what is beside a body is bounded, and what comes after it changes nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.client import HTTPResponse
from typing import TYPE_CHECKING

import pytest

from agentlightning.server import connection
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import InMemoryLightningStore

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = "POST /v1/rollouts/query HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
QUERY = '{"status":[]}'


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a running server."""
    with LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0) as running:
        yield int(running.endpoint.rpartition(":")[2])


def say(port: int, *parts: bytes) -> bytes:
    """Send *parts* over one connection and return all that comes back until the server closes it."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            for part in parts:
                client.sendall(part)
            while got := client.recv(65_536):
                found += got
        except OSError:  # it was closed while we were still sending
            pass
    return found


def test_an_endless_head_is_refused(port: int) -> None:
    """A header that does not end costs the server a bounded number of bytes."""
    answer = say(port, HEAD.encode() + b"x: ", *([b"y" * 2**16] * 64))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


def test_endless_trailers_are_refused(port: int) -> None:
    """So does what follows the last part of a body."""
    head = HEAD.encode() + b"transfer-encoding: chunked\r\n\r\n0\r\nx: "
    answer = say(port, head, *([b"y" * 2**16] * 64))
    assert b"HTTP/1.1 200 " not in answer


def test_small_chunks_pass(port: int) -> None:
    """A body in chunks of one byte is a body, however much stands around them."""
    body = (QUERY + " " * connection.MOST_HEAD_BYTES).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = HEAD.encode() + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    assert say(port, head + chunks).startswith(b"HTTP/1.1 200 ")


def test_headers_after_the_body_change_nothing(port: int) -> None:
    """Access is decided by the head; a project that is named behind the body is not taken up."""
    trailers = b"0\r\nx-agentlightning-project: other\r\ncontent-type: text/html\r\n\r\n"
    head = HEAD.encode() + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    answer = say(port, head + b"%x\r\n%b\r\n" % (len(QUERY), QUERY.encode()) + trailers)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_offer_of_another_protocol_is_left_alone(port: int) -> None:
    """Java's client offers HTTP/2 with its first request, which is answered as it is, and so is the next one."""
    offer = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    first = f"{HEAD}{offer}content-length: {len(QUERY)}\r\n\r\n{QUERY}".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for request in (first, f"{HEAD}content-length: {len(QUERY)}\r\n\r\n{QUERY}".encode()):
            client.sendall(request)
            answer = HTTPResponse(client)
            answer.begin()
            assert (answer.status, answer.read()) == (200, b"[]")


OFFER = "connection: upgrade\r\nupgrade: h2c\r\n"
NESTED = f"{HEAD}content-length: {len(QUERY)}\r\n\r\n{QUERY}"


def trickle(port: int, *parts: str) -> list[bytes]:
    """Send *parts* so that the server reads each by itself; return the status of each answer."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # closed by the server, or nothing more comes
            for part in parts:
                client.sendall(part.encode())
                pause.wait(0.05)
            while got := client.recv(65_536):
                found += got
    return [answer[:3] for answer in found.split(b"HTTP/1.1 ")[1:]]


pause = threading.Event()


@pytest.mark.parametrize(
    "cut", ["up|grade: h2c", "upgrade|: h2c", "upgrade: |h2c", "upgrade: h2c|", "\r|\nupgrade: h2c"]
)
def test_an_offer_in_two_pieces_makes_no_second_request_of_a_body(port: int, cut: str) -> None:
    """Wherever a head is cut, what its length says is the body is never read as another request."""
    head = f"{HEAD}content-length: {len(NESTED)}\r\n{OFFER}\r\n"
    before, after = head.replace(cut.replace("|", ""), cut, 1).split("|")
    assert trickle(port, before, after, NESTED) in ([b"400"], [b"422"])


def test_a_length_that_is_cut_stays_what_it_was(port: int) -> None:
    """What is left of an offer that comes in two pieces does not become part of the header before it."""
    head = f"{HEAD}connection: upgrade, close\r\ncontent-length: {len(QUERY)}\r\nupgrade: |0\r\n\r\n{QUERY}"
    assert trickle(port, *head.split("|")) == [b"400"]


@pytest.mark.parametrize("cut", ["\r\n\r\n|", "\r\n\r|\n", "\r\n|\r\n", "\r|\n\r\n"])
def test_a_body_that_speaks_of_an_offer_stays_whole(port: int, cut: str) -> None:
    """However head and body are cut, nothing is taken out of a body."""
    body = f"{QUERY}\r\nupgrade: h2c\r\n\r\n"
    asked = f"{HEAD}content-length: {len(body)}\r\nconnection: close\r\n\r\n".removesuffix("\r\n\r\n") + cut + body
    assert trickle(port, *asked.split("|")) == [b"422"]  # no JSON, but whole: else the server would wait


def test_a_second_head_that_begins_behind_a_body_is_not_mistaken(port: int) -> None:
    """Nothing is taken out of the body of a second request, wherever its head begins and ends."""
    body = f"{QUERY}\r\nupgrade: h2c\r\n\r\n"
    first, second = (f"{HEAD}content-length: {len(body)}\r\n" for _ in range(2))
    asked = f"{first}\r\n|{body}{second}connection: close\r\n\r|\n{body}"
    assert trickle(port, *asked.split("|")) == [b"422", b"422"]


def test_two_requests_at_once_are_answered_in_turn(port: int) -> None:
    """A second request that is sent before the first is answered waits for its turn."""
    one = f"{HEAD}content-length: {len(QUERY)}\r\n\r\n{QUERY}".encode()
    two = b"GET /v1/nothing HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    first, second = say(port, one + two).split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3]) == (b"200", b"404")
