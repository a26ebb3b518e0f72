"""What the pipeline promises of programs that end badly, of disks and servers that fail, and of crowds of threads."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from agentlightning.pipeline.frame import ENDED
from agentlightning.pipeline.segment import open_segment
from agentlightning.pipeline.spill import spill_folders
from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import SqliteLightningStore

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tests.integration.pipeline.conftest import Programs

COMPUTING = """
def work():
    number = 0
    while True:
        tracer.start_span("work", attributes={"number": number}).end()
        os.write(1, f"{number} {time.monotonic_ns()}\\n".encode())
        number += 1
        time.sleep(0.002)
flush(5)
threading.Thread(target=work, daemon=True).start()
until = time.monotonic() + float(sys.argv[1])
x = 0
while time.monotonic() < until:
    x = (x * 31 + 7) % 1000003
os.write(1, f"killed {time.monotonic_ns()}\\n".encode())
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_nothing_that_is_older_than_200_ms(programs: Programs, load: float) -> None:
    """SIGKILL beside computing: each span that ended 200 ms before is in the store, with the default durability."""
    promised_s = 0.2 * min(load, 5)
    code = f"import signal\nsys.argv = ['x', '{promised_s + 0.6}']\nemit(1)\n"
    lines = programs.run(code + COMPUTING, status=-signal.SIGKILL).split("\n")
    times = dict(line.split() for line in lines if " " in line)
    killed = int(times.pop("killed"))
    stored = set(map(str, programs.order()))
    old = {number for number, ended in times.items() if killed - int(ended) > 1e9 * promised_s}
    print(f"{len(old - stored)} of {len(old)} lost older than {1e3 * promised_s:.0f} ms; {len(times)} spans in all")
    assert len(old) > 5
    assert old <= stored


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("emit(100); os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", -signal.SIGINT, "KeyboardInterrupt"),
        (
            (
                "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); emit(100)\n"
                "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)"
            ),
            7,
            "",
        ),
    ],
    ids=["interrupt", "handler of SIGTERM"],
)
def test_signals_stay_the_program_s_own(programs: Programs, code: str, status: int, said: str) -> None:
    """100 of 100 after Ctrl-C and where the program has handlers of its own, which run as alone, exit code included."""
    began = time.monotonic()
    process = programs.start("import signal\n" + code)
    _, errors = process.communicate(timeout=19)
    assert time.monotonic() - began < 9
    assert (process.returncode, said in errors) == (status, True)
    assert programs.stored() == 100
    assert programs.account().total_lost == 0


def spilled(url: str) -> int:
    """Return how many ended spans lie on the disk for the store at *url*."""
    segments = [open_segment(path) for folder in spill_folders(url) for path in folder.segments()]
    found = 0
    for reader in filter(None, segments):
        found += sum(frame.kind == ENDED for frame in reader)
        reader.close()
    return found


class Rude:
    """A server that does not do what a store's server does."""

    def __init__(self, manner: str) -> None:
        """Listen; *manner*: ``silent`` never answers, ``reset`` hangs up, ``half`` sends a part of an answer."""
        self.asked = 0
        self._manner = manner
        self._held: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                connection, _ = self._socket.accept()
                self.asked += 1
                self._held.append(connection)
                if self._manner == "silent":
                    continue
                with contextlib.suppress(OSError):
                    connection.recv(65_536)
                    if self._manner == "half":
                        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"stored"')
                    # Lingering for 0 s is a reset.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    connection.close()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        for connection in self._held:
            connection.close()


@pytest.fixture(params=["silent", *(pytest.param(each, marks=pytest.mark.slow) for each in ("reset", "half"))])
def rude(request: pytest.FixtureRequest) -> Iterator[Rude]:
    """Give each such server."""
    server = Rude(request.param)
    yield server
    server.close()


def test_a_rude_server_delays_nothing_and_loses_nothing(programs: Programs, rude: Rude, load: float) -> None:
    """The program ends within 2 s, all its spans are on the disk, the server is asked a few times, not for each."""
    code = "emit(1); time.sleep(0.3); emit(299)\nprint(time.time())\n"
    ended = float(programs.run(code, AGL_STORE=rude.url))
    took = time.time() - ended
    print(f"ended after {took:.2f} s, {rude.asked} requests")
    assert took < 2 * load + 0.5
    assert rude.asked < 20
    assert spilled(rude.url) == 300


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Generator[Path, None, None]:
    """Give a disk of its own; the test is skipped where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


FULL = """
import json, signal
emit(50, text="x" * 2000, phase=1); flush(10)
ballast = os.open("ballast", os.O_CREAT | os.O_WRONLY)
try:
    while True: os.write(ballast, bytes(4096))
except OSError:
    pass
os.close(ballast)
emit(300, text="x" * 2000, phase=2); flush(2)
full = account()
os.unlink("ballast")
emit(200, text="x" * 2000, phase=3); flush(15)
done = account()
print(json.dumps({"full": full.lost, "produced": done.produced, "stored": done.stored, "waiting": done.waiting,
                  "lost": done.total_lost}))
"""


@pytest.mark.parametrize("spill", ["", pytest.param("0", marks=pytest.mark.slow)], ids=["spill", "no spill"])
def test_a_disk_that_was_full_is_used_again(programs: Programs, tmp_path: Path, spill: str) -> None:
    """Full, then not: the program goes on, what is lost is counted exactly, and what comes later is stored."""
    with small_disk(tmp_path / "small", 16) as folder:
        programs.folder, programs.store = folder, folder / "x.db"
        found = json.loads(programs.run(FULL, AGL_STORE=str(programs.store), AGL_SPILL_BYTES=spill))
        with contextlib.closing(sqlite3.connect(programs.store)) as connection:
            query = "SELECT json_extract(attributes, '$.phase'), count(*) FROM spans GROUP BY 1"
            stored: dict[int, int] = dict(connection.execute(query).fetchall())
    print(found, stored)
    assert (found["produced"], found["waiting"]) == (550, 0)
    assert found["stored"] + found["lost"] == 550
    assert sum(stored.values()) == found["stored"]
    assert (stored[1], stored[3]) == (50, 200)
    assert found["lost"] == 0  # what found no place on the disk waited in memory


def fill(ballast: Path, *, is_freed: bool) -> None:
    """Take all room that a disk has, or give it back."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while not is_freed:
            file.write(bytes(4096))


def test_a_server_whose_disk_is_full_says_so(tmp_path: Path) -> None:
    """A full disk is never a 2xx: OTLP and our own batches get 503 or 507; with room again the same server takes them.

    Every acknowledged span is there, once.
    """
    with small_disk(tmp_path / "small", 16) as folder:
        store = SqliteLightningStore(folder / "x.db")
        with LightningStoreServer(store, "127.0.0.1", 0) as server, httpx.Client(base_url=server.endpoint) as client:
            acknowledged, number = 0, 0
            refused: set[int] = set()
            for is_freed in (False, True):
                fill(folder / "ballast", is_freed=is_freed)
                for _ in range(20):
                    number += 1
                    answer = client.post("/v1/traces", json=otlp(number))
                    acknowledged += answer.is_success
                    if not answer.is_success:
                        refused.add(answer.status_code)
                        assert not is_freed, answer.text
            assert refused
            assert refused <= {503, 507}
        store.close()
        with contextlib.closing(sqlite3.connect(folder / "x.db")) as connection:
            assert connection.execute("SELECT count(*) FROM spans").fetchone() == (acknowledged,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    print(f"{acknowledged} of {number} acknowledged, refused with {refused}")


def otlp(number: int) -> dict[str, Any]:
    """Return an OTLP message of one span of 60 KB."""
    span = {
        "traceId": f"{number:032x}", "spanId": f"{number:016x}", "name": "x", "startTimeUnixNano": "50",
        "endTimeUnixNano": "90",
        "attributes": [{"key": "text", "value": {"stringValue": random.Random(number).randbytes(30_000).hex()}}],
    }  # fmt: skip
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


CROWD = """
import asyncio, json
threads, each, lone, tasks = map(int, sys.argv[1:])
times = []
def pair(name):
    began = time.perf_counter()
    with tracer.start_as_current_span("outer", attributes={"who": name}):
        with tracer.start_as_current_span("inner", attributes={"who": name}):
            pass
    times.append((time.perf_counter() - began) / 2)
def many(place):
    for number in range(each // 2):
        pair(f"thread {place}.{number}")
def run(target, number):
    crowd = [threading.Thread(target=target, args=(place,)) for place in range(number)]
    for thread in crowd: thread.start()
    for thread in crowd: thread.join()
async def one(place):
    with tracer.start_as_current_span("outer", attributes={"who": f"task {place}"}):
        await asyncio.sleep(0)
        with tracer.start_as_current_span("inner", attributes={"who": f"task {place}"}):
            await asyncio.sleep(0)
async def all_tasks():
    await asyncio.gather(*(one(place) for place in range(tasks)))
run(many, threads)
for first in range(0, lone, 1000):
    run(lambda place: pair(f"lone {first + place}"), min(1000, lone - first))
asyncio.run(all_tasks())
flush(300)
times.sort()
done = account()
print(json.dumps({"produced": done.produced, "stored": done.stored, "lost": done.total_lost,
                  "p50_us": 1e6 * times[len(times) // 2], "p99_us": 1e6 * times[int(0.99 * len(times))]}))
"""
PAIRS = """
SELECT count(*), count(o.span_id) FROM spans i LEFT JOIN spans o ON o.span_id = i.parent_id AND o.trace_id = i.trace_id
AND o.name = 'outer' AND json_extract(o.attributes, '$.who') = json_extract(i.attributes, '$.who')
WHERE i.name = 'inner'
"""


def crowd(programs: Programs, threads: int, each: int, lone: int, tasks: int) -> None:
    """Let *threads* write *each* spans, *lone* threads a pair, *tasks* of asyncio a pair, and look for every one."""
    code = f"sys.argv = ['x', '{threads}', '{each}', '{lone}', '{tasks}']\n" + CROWD
    process = programs.start(code, AGL_FLUSH_TIMEOUT_S="300")
    out, errors = process.communicate(timeout=380)
    assert process.returncode == 0, errors
    found = json.loads(out)
    wanted = threads * each + 2 * lone + 2 * tasks
    with contextlib.closing(sqlite3.connect(programs.store)) as connection:
        inner, placed = connection.execute(PAIRS).fetchone()
    print(f"{found['stored']:,} of {wanted:,} stored, {placed:,} of {inner:,} under their parent, {found}")
    assert (found["produced"], found["stored"], found["lost"]) == (wanted, wanted, 0)
    assert (inner, placed) == (wanted // 2, wanted // 2)


def test_a_crowd_loses_nothing_and_mixes_nothing_up(programs: Programs) -> None:
    """16 busy threads, 200 threads with a pair of spans, 500 tasks: all stored, each below its own parent."""
    crowd(programs, 16, 100, 200, 500)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_large_crowd_loses_nothing_and_mixes_nothing_up(programs: Programs) -> None:
    """64 threads with 10,000 spans each, 10,000 threads with a pair, 10,000 tasks."""
    crowd(programs, 64, 10_000, 10_000, 10_000)


PRIVATE = """
import json, stat
from pathlib import Path
os.umask(0)
emit(3, password="a-secret-value")
flush(10)
home = Path(os.environ["AGL_STORE"]).parent
print(json.dumps({str(path.relative_to(home)): path.lstat().st_mode for path in [home, *home.rglob("*")]}))
"""


def test_files_are_private_whatever_the_umask(programs: Programs, tmp_path: Path) -> None:
    """Under umask 000 the store, its log, its counters and its key are 0600, and folders beside it 0700."""
    path = tmp_path / "new" / "folder" / "x.db"
    found: dict[str, int] = json.loads(programs.run(PRIVATE, AGL_STORE=str(path)))
    modes = {name: stat.S_IMODE(mode) for name, mode in found.items()}
    assert {"x.db", "x.db-wal", "x.db.redact-key"} <= set(modes)
    wrong = {
        name: oct(modes[name])
        for name, mode in found.items()
        if modes[name] != (0o700 if stat.S_ISDIR(mode) else 0o600)
    }
    assert wrong == {}


FORGED = """
import logging
from agentlightning import emit_event, emit_message, OtelTracer
from agentlightning._internal.guard import guard
evil = "\\x1b[31mred\\r\\nagl WARNING agentlightning: forged\\u2028\\udcff"
with OtelTracer().trace_context(evil):
    emit_message(evil)
    emit_event(evil, {evil: evil})
    tracer.start_span(evil, attributes={evil: evil, "password": evil}).end()
for logger in ("agentlightning.pipeline", "agentlightning"):
    logging.getLogger(logger).warning("%s", evil)
with guard("place"):
    raise ValueError(evil)
"""


def test_nothing_can_forge_a_line_of_the_log(programs: Programs) -> None:
    """A record is one line of printable text; a traceback's lines are indented; a name cannot drive the terminal."""
    process = programs.start(FORGED, AGL_LOG_LEVEL="DEBUG")
    _, log = process.communicate(timeout=19)
    assert process.returncode == 0, log
    lines = log.split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() and line.startswith(("agl ", "  ")) for line in lines), lines
    assert not any(line.startswith("agl WARNING agentlightning: forged") for line in lines)
    assert sum("\\x1b[31mred\\r\\nagl WARNING" in line for line in lines) >= 2


def test_some_seconds_change_nothing() -> None:
    """The short form of ten minutes at 500 spans a second: nothing lost, threads and file descriptors stay."""
    benchmark = Path(__file__).parents[3] / "benchmarks/soak.py"
    command = [sys.executable, str(benchmark), "--minutes", "0.05", "--per-second", "500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=19, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["lost"], found["in_store"]) == (0, found["spans_made"])
    assert max(found["threads"]) - min(found["threads"]) <= 1
    assert max(found["file_descriptors"]) - min(found["file_descriptors"]) <= 2
