"""Processes that a program starts: their spans arrive once each, in the run's rollout and under the right span."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from agentlightning import Span
    from conftest import Lab

START = "import asyncio, multiprocessing, os, subprocess, sys, threading, time\n"

# Each starts children inside the span "outer"; every child writes "child" once, the parent "before" and "after".
WAYS = {
    "fork": """
if os.fork() == 0:
    emit("child"); sys.exit(0)
os.wait()
""",
    "fork that leaves by os._exit": """
if os.fork() == 0:
    emit("child"); time.sleep(0.4); os._exit(0)
os.wait()
""",
    "multiprocessing fork": """
p = multiprocessing.get_context("fork").Process(target=emit, args=("child",)); p.start(); p.join()
""",
    "multiprocessing spawn": """
p = multiprocessing.get_context("spawn").Process(target=emit, args=("child",)); p.start(); p.join()
""",
    "multiprocessing forkserver": """
p = multiprocessing.get_context("forkserver").Process(target=emit, args=("child",)); p.start(); p.join()
""",
    "pool that renews its workers": """
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    pool.map(emit, ["child"] * 3, chunksize=1); pool.close(); pool.join()
""",
    "executor": """
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool: list(pool.map(emit, ["child"] * 4))
""",
    "subprocess": "subprocess.run([sys.executable, __file__, 'child'], check=True)",
    "subprocess with an environment": (
        "subprocess.run([sys.executable, __file__, 'child'], check=True, env={**os.environ, 'X': '1'})"
    ),
    "subprocess from a thread": """
t = threading.Thread(target=subprocess.run, args=([sys.executable, __file__, "child"],)); t.start(); t.join()
""",
    "subprocess of a shell": "subprocess.run(f'{sys.executable} {__file__} child', shell=True, check=True)",
    "asyncio subprocess": """
async def main():
    p = await asyncio.create_subprocess_exec(sys.executable, __file__, "child"); await p.wait()
asyncio.run(main())
""",
}
COUNTS = {"pool that renews its workers": 3, "executor": 4}


def by_name(spans: list[Span]) -> dict[str, list[Span]]:
    """Return the spans by their names."""
    table: dict[str, list[Span]] = {}
    for span in spans:
        table.setdefault(span.name, []).append(span)
    return table


@pytest.mark.parametrize("way", WAYS)
def test_spans_of_children(lab: Lab, way: str) -> None:
    """However a child is started, its spans hang under the span in which it was started, each once."""
    body = "".join(
        f"    {line}\n" for line in 'emit("before")\nwith tracer.start_as_current_span("outer"):'.splitlines()
    )
    body += "".join(f"        {line}\n" for line in WAYS[way].strip().splitlines())
    code = (
        START
        + "if 'child' in sys.argv:\n    emit('child')\nelif __name__ == '__main__':\n"
        + body
        + '    emit("after")\n'
    )
    end = lab.python(code)
    assert end.code == 0, end.stderr
    assert end.stderr.count(b"\n") == 1, end.stderr
    spans = lab.spans()
    found = by_name(spans)
    wanted = {"before": 1, "outer": 1, "after": 1, "child": COUNTS.get(way, 1)}
    assert {name: len(group) for name, group in found.items()} == wanted
    assert len({span.trace_id for span in spans}) == 1
    assert {span.parent_id for span in found["child"]} == {found["outer"][0].span_id}
    assert " 0 lost" in end.last_line


@pytest.mark.timeout(150)
@pytest.mark.parametrize("forks", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_forks_beside_busy_threads(lab: Lab, forks: int) -> None:
    """A program that forks while eight threads write spans never hangs, and no span is written twice or lost."""
    end = lab.python(
        START
        + f"""
stop = threading.Event(); made = [0] * 8
def work(n):
    while not stop.is_set():
        emit(f"thread-{{n}}"); made[n] += 1; time.sleep(0.002)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
emit("first")
for t in threads: t.start()
for number in range({forks}):
    pid = os.fork()
    if pid == 0:
        emit("child"); sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for t in threads: t.join()
print(sum(made))
""",
        patience_s=140,
    )
    assert end.code == 0, end.stderr
    counts = Counter(span.name.partition("-")[0] for span in lab.spans())
    assert counts == {"first": 1, "child": forks, "thread": int(end.stdout)}
    assert " 0 lost" in end.last_line


def test_children_that_end_after_the_program(lab: Lab) -> None:
    """A child that goes on when the program has ended goes on recording, and the last line says that it does."""
    script = lab.script(START + "emit('a')\nif os.fork() == 0:\n"
                        "    emit('b'); os.close(1); os.close(2); time.sleep(1.2); emit('late'); sys.exit(0)\n"
                        "time.sleep(0.2)\n")  # fmt: skip
    end = lab.traced(sys.executable, script)
    assert end.code == 0
    assert b"1 process of this run still" in end.stderr
    deadline = 40
    while deadline and len(lab.spans()) < 3:
        deadline -= 1
        lab.run(["sleep", "0.1"])
    assert sorted(span.name for span in lab.spans()) == ["a", "b", "late"]


def test_run_inside_run(lab: Lab) -> None:
    """A program under ``agl run`` that itself calls ``agl run`` gets a rollout of its own, a child of the outer one."""
    inner = lab.script("emit('inner')", "inner.py")
    end = lab.python(
        START
        + f"""
agl = os.path.join(os.path.dirname(sys.executable), "agl")
with tracer.start_as_current_span("outer"):
    subprocess.run([agl, "run", "-q", sys.executable, {inner!r}], check=True)
"""
    )
    assert end.code == 0, end.stderr
    outer = next(rollout for rollout in lab.rollouts(children=False))
    child = next(rollout for rollout in lab.rollouts() if rollout.rollout_id != outer.rollout_id)
    assert len(lab.rollouts()) == 2
    assert (child.metadata or {})["parent_rollout_id"] == outer.rollout_id
    assert [span.name for span in lab.spans(outer.rollout_id)] == ["outer"]
    assert [span.name for span in lab.spans(child.rollout_id)] == ["inner"]
    assert lab.spans(child.rollout_id)[0].trace_id == lab.spans(outer.rollout_id)[0].trace_id


def test_trace_from_outside(lab: Lab) -> None:
    """A valid TRACEPARENT of the caller is the parent of the program's roots; a broken one is ignored."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    lab.environment["TRACEPARENT"] = parent
    assert lab.python("emit('a')").code == 0
    (span,) = lab.spans()
    assert (span.trace_id, span.parent_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    lab.environment["TRACEPARENT"] = "00-zz-11-01"
    assert lab.python("emit('b')").code == 0
    (span,) = lab.spans()
    assert span.parent_id is None


UNREACHED = {
    "isolated": (["-I"], "no Python process was reached"),
    "no site": (["-S"], "no Python process was reached"),
}


@pytest.mark.parametrize("name", UNREACHED)
def test_interpreters_that_are_not_reached(lab: Lab, name: str) -> None:
    """Where a Python process cannot be reached it runs as alone, and the last line says so."""
    flags, said = UNREACHED[name]
    end = lab.traced(sys.executable, *flags, "-c", "print('ran')")
    assert (end.code, end.stdout) == (0, b"ran\n")
    assert said in end.last_line


def test_program_that_is_not_python(lab: Lab) -> None:
    """Any program can be run; nothing is traced, and the last line says so."""
    end = lab.traced("sh", "-c", "echo out; exit 6")
    assert (end.code, end.stdout) == (6, b"out\n")
    assert "no Python process was reached" in end.last_line


def test_interpreter_without_the_package(lab: Lab) -> None:
    """An interpreter that lacks agentlightning runs its program untraced, and the last line says what to install."""
    bare = lab.folder / "bare"
    lab.environment.pop("PYTHONPATH", None)
    assert lab.run([sys.executable, "-m", "venv", "--without-pip", str(bare)]).code == 0
    end = lab.traced(str(bare / "bin/python"), "-c", "import sys; print('ran'); sys.exit(4)")
    assert (end.code, end.stdout) == (4, b"ran\n")
    assert "has no agentlightning" in end.last_line
    assert "-m pip install agentlightning" in end.last_line
