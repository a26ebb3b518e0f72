"""A program under ``agl run`` writes the same bytes and ends the same way as without."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Lab

PROGRAMS = {
    "normal end": 'emit("a"); print("out"); print("err", file=sys.stderr)',
    "exit code": 'emit("a"); sys.exit(3)',
    "exit message": 'emit("a"); sys.exit("sorry")',
    "uncaught exception": 'emit("a"); 1 / 0',
    "exception in a span": 'with tracer.start_as_current_span("a"): raise ValueError("inside")',
    "os._exit": 'emit("a"); print("out", flush=True); os._exit(7)',
    "os.abort": 'emit("a"); os.abort()',
    "SIGKILL": 'emit("a"); os.kill(os.getpid(), 9)',
    "SIGSEGV": 'emit("a"); os.kill(os.getpid(), signal.SIGSEGV)',
    "SIGTERM": 'emit("a"); os.kill(os.getpid(), 15); time.sleep(9)',
    "SIGINT": 'emit("a"); os.kill(os.getpid(), 2); time.sleep(9)',
    "stack overflow": 'emit("a")\ndef f(): f()\nf()',
    "exception in a thread": 'emit("a"); t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()',
    "exception from a pool": (
        'emit("a")\nfrom concurrent.futures import ThreadPoolExecutor\n'
        "def fail(): raise KeyError('x')\nThreadPoolExecutor(1).submit(fail).result()"
    ),
    "exception at exit": 'emit("a"); import atexit; atexit.register(int, "x")',
    "span at exit": 'import atexit; atexit.register(emit, "late"); emit("a"); print("out")',
    "thread that outlives main": (
        'def late():\n    time.sleep(0.1); emit("late"); print("late")\n'
        'emit("a"); threading.Thread(target=late).start()'
    ),
    "daemon thread": (
        'def work():\n    while True: emit("x")\nthreading.Thread(target=work, daemon=True).start(); time.sleep(0.1)'
    ),
    "closed streams": 'emit("a"); sys.stdout.close(); sys.stderr.close()',
    "fork": 'emit("a")\nif os.fork() == 0:\n    emit("b"); print("child"); sys.exit(4)\nos.wait(); print("parent")',
    "warning": 'emit("a"); import warnings; warnings.warn("careful")',
    "surroundings": (
        "print(sys.path, sys.argv, __name__, __file__, os.getcwd(), sys.flags, sys.executable, sys.version)\n"
        "print(signal.getsignal(2), signal.getsignal(signal.SIGPIPE), sys.excepthook, threading.active_count())\n"
        'print(sorted(os.listdir("/proc/self/fd")))'
    ),
    "logging": (
        'import logging; logging.basicConfig(level=10); emit("a"); logging.debug("mine")\n'
        'logging.getLogger("x").warning("y")'
    ),
}


def program(code: str) -> str:
    """Return a whole program."""
    return "import os, signal, sys, threading, time\n" + code + "\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_bytes_and_end_are_the_same(lab: Lab, name: str) -> None:
    """Whatever a program does at its end, the caller of ``agl run`` sees exactly that."""
    bare, traced = lab.both(sys.executable, lab.script(program(PROGRAMS[name])), "one", "two words", stdin=b"in")
    assert traced.stdout == bare.stdout
    assert traced.stderr == bare.stderr
    assert traced.code == bare.code


def test_one_line_more_on_stderr(lab: Lab) -> None:
    """Without --quiet stderr ends with one line of agl's, and nothing else is added."""
    script = lab.script('import sys; emit("a"); print("mine", file=sys.stderr)')
    traced = lab.traced(sys.executable, script)
    first, second = traced.stderr.decode().splitlines()
    assert first == "mine"
    assert second.startswith("agl: 1 span, 0 LLM calls")
    assert "agl show ro-" in second


def test_ways_to_name_a_program(lab: Lab) -> None:
    """A script by its name, a module, a module of a package and a script with a first line all run as they do alone."""
    code = "import sys\nprint(__name__, sys.argv, sys.path[0])\n"
    script = lab.script(code, spans=False)
    (lab.folder / "package").mkdir()
    (lab.folder / "package/__init__.py").write_text("")
    (lab.folder / "package/__main__.py").write_text(code)
    (lab.folder / "own.py").write_text(f"#!{sys.executable}\n{code}")
    (lab.folder / "own.py").chmod(0o755)
    expected = lab.run([sys.executable, script, "-x", "--store", "y"])
    assert lab.traced(script, "-x", "--store", "y", options=("-q",)) == expected
    assert lab.traced("-m", "package", "-q", "--store=z", options=("-q",)) == lab.run(
        [sys.executable, "-m", "package", "-q", "--store=z"]
    )
    assert lab.traced(sys.executable, "-m", "package", options=("-q",)) == lab.run([sys.executable, "-m", "package"])
    assert lab.traced("./own.py", "1", options=("-q",)) == lab.run(["./own.py", "1"])
    assert lab.traced("own.py", "1", options=("-q",)) == lab.run(["./own.py", "1"])
    assert lab.traced("sh", "-c", 'echo "$0" $1; exit 5', "a", "b", options=("-q",)).code == 5


def test_customize_modules_of_the_program(lab: Lab) -> None:
    """A sitecustomize on a PYTHONPATH that was set before runs, once, as if ours were not there."""
    own = lab.folder / "own"
    own.mkdir()
    # Not by printing: agl itself is a Python program that reads this PYTHONPATH.
    (own / "sitecustomize.py").write_text("import sys\nsys.seen = getattr(sys, 'seen', 0) + 1\nVALUE = __file__\n")
    lab.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(own), os.environ.get("PYTHONPATH", "")]))
    code = "import sys, sitecustomize\nprint(sys.seen, sitecustomize.VALUE, sys.path)"
    bare, traced = lab.both(sys.executable, lab.script(code))
    assert traced == bare
    (own / "sitecustomize.py").write_text("raise RuntimeError('broken')\n")
    bare, traced = lab.both(sys.executable, lab.script("print(1)"))
    assert traced.code == bare.code
    assert traced.stdout == bare.stdout
    assert b"broken" in traced.stderr


@pytest.mark.parametrize("megabytes", [100, pytest.param(1024, marks=pytest.mark.slow)])
def test_much_output_arrives(lab: Lab, megabytes: int) -> None:
    """A program may print any amount through a pipe, and ends when its reader is gone as it does alone."""
    script = lab.script(
        "import sys\nemit('a')\nblock = bytes(range(256)) * 4096\n"
        f"for _ in range({megabytes}): sys.stdout.buffer.write(block)\n"
    )
    with lab.start([sys.executable, "-c", "pass"]) as warm:
        warm.wait()
    with lab.start([AGL, "run", "-q", sys.executable, script], env={**lab.environment, "PATH": _path()}) as process:
        assert process.stdout
        found, size = hashlib.blake2b(), 0
        while block := process.stdout.read(2**20):
            found.update(block)
            size += len(block)
        assert process.wait() == 0
    wanted = hashlib.blake2b()
    for _ in range(megabytes):
        wanted.update(bytes(range(256)) * 4096)
    assert size == megabytes * 2**20
    assert found.digest() == wanted.digest()
    pipe = '"$@" | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}'
    bare, traced = (
        lab.run(["bash", "-c", pipe, "bash", *command])
        for command in ([sys.executable, script], [AGL, "run", "-q", sys.executable, script])
    )
    assert traced.code == bare.code
    assert traced.stderr == bare.stderr


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stay_closed(lab: Lab, closed: str) -> None:
    """A program whose standard streams were closed by its caller finds them closed, and ends as it does alone."""
    script = lab.script(
        "import os, subprocess, sys\nfor number in range(50): emit('a')\nprint('x')\nprint('y', file=sys.stderr)\n"
        "def write(place):\n    try: os.write(place, b'NOISE')\n    except OSError: pass\n"
        "import time; time.sleep(0.2); write(1); write(2)\n"
        'child = \'import sys; open("child", "w").write(str((sys.stdin, sys.stdout, sys.stderr)))\'\n'
        "subprocess.run([sys.executable, '-S', '-c', child])\n"
    )
    found: list[tuple[int, bytes, bytes, str]] = []
    for options in ([], [AGL, "run", "--quiet"]):
        end = lab.run(["sh", "-c", f'exec "$@" {closed}', "sh", *options, sys.executable, script])
        found.append((end.code, end.stdout, end.stderr, (lab.folder / "child").read_text()))
    assert found[1] == found[0]
    assert len(lab.spans()) == 50


AGL = str(Path(sys.executable).with_name("agl"))


def test_descriptors_of_the_caller_reach_the_program(lab: Lab) -> None:
    """A descriptor that the caller handed down, as make and systemd do, is open in the program."""
    reader, writer = os.pipe()
    try:
        script = lab.script(f"import os; emit('a'); os.write({writer}, b'through')")
        assert lab.traced(sys.executable, script, pass_fds=(writer,)).code == 0
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
        os.close(writer)


def test_input_is_the_programs(lab: Lab) -> None:
    """Every byte on stdin reaches the program."""
    script = lab.script("import sys, hashlib; emit('a'); print(hashlib.md5(sys.stdin.buffer.read()).hexdigest())")
    data = os.urandom(3_000_000)
    assert lab.traced(sys.executable, script, stdin=data).stdout.decode().strip() == hashlib.md5(data).hexdigest()


def test_a_hangup_that_was_ignored_stays_ignored(lab: Lab) -> None:
    """Under nohup the program ignores SIGHUP as it does without agl."""
    script = lab.script(
        "import os, signal; emit('a'); print(signal.getsignal(signal.SIGHUP)); os.kill(os.getppid(), signal.SIGHUP)\n"
        "os.kill(os.getpid(), signal.SIGHUP); print('still here')"
    )
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    end = lab.run([sys.executable, "-c", ignoring, AGL, "run", "-q", sys.executable, script])
    assert (end.code, end.stdout) == (
        0,
        b"Handlers.SIG_IGN\nstill here\n" if sys.version_info < (3, 11) else b"1\nstill here\n",
    )


WAITING = """
import signal, sys, threading, time
{setup}
emit("a")
threading.Timer({pause}, print, ["ready"], {{"flush": True}}).start()
{wait}
"""
_HANDLER = "def h(n, f):\n    print('handled', n, flush=True); sys.exit(9)\nsignal.signal(signal.SIGTERM, h)"
_COUNTER = "signal.signal(signal.SIGINT, lambda n, f: print('int', flush=True))"
SIGNALS = {
    "SIGTERM to agl": (signal.SIGTERM, False, "", "time.sleep(15)"),
    "SIGHUP to agl": (signal.SIGHUP, False, "", "time.sleep(15)"),
    "SIGUSR1 to agl": (signal.SIGUSR1, False, "", "time.sleep(15)"),
    "SIGTERM that the program handles": (signal.SIGTERM, False, _HANDLER, "time.sleep(15)"),
    "SIGINT to the group": (signal.SIGINT, True, "", "time.sleep(15)"),
    "SIGQUIT to the group": (signal.SIGQUIT, True, "", "time.sleep(15)"),
    "SIGINT that the program ignores": (
        signal.SIGINT, True, "signal.signal(signal.SIGINT, signal.SIG_IGN)", "time.sleep(0.5); print('done')",
    ),
    "SIGINT that the program handles": (signal.SIGINT, True, _COUNTER, "time.sleep(0.5); print('done')"),
}  # fmt: skip


def _default_interrupts() -> None:
    """Undo what a shell does to programs that it runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_from_outside(lab: Lab, name: str) -> None:
    """A signal to agl, or to its process group, has the effect it has without agl, and the spans are there."""
    number, to_group, setup, wait = SIGNALS[name]
    # Only SIGTERM writes what is waiting before it ends a program; before the others the worker needs its tick.
    pause = 0.02 if number == signal.SIGTERM else 0.25
    script = lab.script(WAITING.format(setup=setup, wait=wait, pause=pause))
    ends: list[tuple[int, bytes, bytes]] = []
    for command in ([sys.executable, script], [AGL, "run", "-q", sys.executable, script]):
        with lab.start(
            command, start_new_session=True, stdin=subprocess.DEVNULL, preexec_fn=_default_interrupts
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            (os.killpg if to_group else os.kill)(process.pid, number)
            out, err = process.communicate(timeout=60)
            ends.append((process.returncode, out, err))
    assert ends[1] == ends[0]
    assert [span.name for span in lab.spans()] == ["a"]


def test_switched_off_is_the_program_alone(lab: Lab) -> None:
    """With AGL_ENABLED=0 nothing is recorded, no store is made, and the end is the program's, signals included."""
    lab.environment["AGL_ENABLED"] = "0"
    bare, traced = lab.both(
        sys.executable, lab.script("import os; emit('a'); print(1, flush=True); os.kill(os.getpid(), 9)")
    )
    assert traced == bare
    assert traced.code == -9
    assert not lab.store.exists()
    assert lab.traced("sh", "-c", "exit 3").stderr == b""
