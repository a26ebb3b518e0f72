"""What becomes of ``agl`` when somebody on the other end of a pipe or a connection leaves."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from agentlightning.store import SqliteLightningStore
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from pathlib import Path

AGL = [sys.executable, "-m", "agentlightning.cli"]
REFUSAL = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def refuse(listener: socket.socket) -> None:
    """Answer the first request after its head, as nginx does with a body that is too large, and hang up."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(REFUSAL)
        connection.shutdown(socket.SHUT_WR)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell


def test_a_backend_that_hangs_up_is_an_error(tmp_path: Path) -> None:
    """A backend that leaves inside a request does not end the sender by a signal: it counts what was not taken."""
    store = SqliteLightningStore(tmp_path / "store.db")
    store.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 1, attributes={"text": "x" * 9_000_000})]))
    store.close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = threading.Thread(target=refuse, args=(listener,))
        refusing.start()
        to = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [*AGL, "export", "--store", str(store.url), "--otlp", to]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        refusing.join()
    assert (done.returncode, done.stderr) == (1, f"agl: 0 spans sent, 1 skipped (too large) to {to}/v1/traces\n")


@pytest.mark.parametrize(("command", "place"), [(["redact", "rules"], 1), (["--help"], 1), (["nonsense"], 2)])
def test_a_reader_that_left_ends_it_quietly(command: list[str], place: int) -> None:
    """Like any Unix tool it ends by SIGPIPE, without a word, when nobody reads what it prints, or what it complains."""
    with subprocess.Popen([*AGL, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        left, other = (process.stdout, process.stderr)[:: 1 if place == 1 else -1]
        left.close()
        assert other.read() == b""
    assert process.returncode == -signal.SIGPIPE
