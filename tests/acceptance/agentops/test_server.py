"""The unmodified SDK against ``agl agentops``, pointed there by environment variables alone."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from agentlightning.testing.agentops import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentlightning import Rollout
    from conftest import Sdk

pytestmark = pytest.mark.timeout(120)

AGL = [sys.executable, "-m", "agentlightning.cli"]
REMEDY = """
# SDK 0.4.19 and later with OpenTelemetry 1.45: without this it sends nothing.
from agentlightning.instrumentation.agentops import instrument_agentops
instrument_agentops()
"""


def agl(*arguments: str) -> str:
    """Run ``agl`` and return what it prints."""
    return subprocess.run([*AGL, *arguments], capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.fixture
def server(sdk: Sdk) -> Iterator[str]:
    """Run ``agl agentops`` as a daemon, set what it prints in the environment of programs, and return its address."""
    for line in agl("agentops", "--port", "0", "--daemon").splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        sdk.environment[name] = value
    yield sdk.environment["AGENTOPS_API_ENDPOINT"]
    agl("agentops", "--stop")


SESSIONS = """
import threading
import agentops
from agentops.sdk.decorators import agent, operation

agentops.init(auto_start_session=False, instrument_llm_calls=False)

@operation
def add(a, b):
    if a < 0:
        raise ValueError("no negative numbers")
    return a + b

def work(number):
    trace = agentops.start_trace(f"job{number}", tags=[f"tag{number}", "all"])
    print(f"hello from {number}")
    try:
        add(number, 2)
        agentops.end_trace(trace, "Success")
    except ValueError:
        agentops.end_trace(trace, "Error")

threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, -3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_sessions_of_the_unmodified_sdk(sdk: Sdk, server: str, isolated: Path) -> None:
    """It signs in and its sessions, which run at once, are listed and shown each for itself: tags, end, error, log."""
    sdk.run(_mended(sdk) + SESSIONS, patience_s=60).check()
    wait_until(lambda: len(_finished(sdk)) == 3)
    what = _finished(sdk)
    assert {text.rpartition(" ")[0] for text in what} == {f"job{n} [tag{n}, all]" for n in (1, 2, -3)}
    failed = next(item for text, item in what.items() if text.startswith("job-3"))
    assert {item.status for item in what.values() if item is not failed} == {"succeeded"}
    assert failed.status == "failed"
    pages = {item.rollout_id: _page(server, item) for item in what.values()}
    for word in ("job-3", "tag-3", "no negative numbers"):
        assert word in pages[failed.rollout_id]
        assert word not in "".join(page for rollout_id, page in pages.items() if rollout_id != failed.rollout_id)
    with_log = next(rollout_id for rollout_id, page in pages.items() if "hello from" in page)
    shown = agl("show", failed.rollout_id, "--no-pager") + agl("show", with_log, "--no-pager")
    for word in ("job-3 [tag-3, all] ", "add", "no negative numbers", "hello from"):
        assert word in shown
    lines = (isolated / "agentlightning" / "agentops" / "agentops.log").read_text()
    assert '"sign-in"' in lines
    assert sdk.environment["AGENTOPS_API_KEY"] not in lines


def _page(server: str, rollout: Rollout) -> str:
    trace = rollout.rollout_id.removeprefix("ro-")
    return httpx.get(f"{server}/sessions", params={"trace_id": trace}, timeout=10).text


def _mended(sdk: Sdk) -> str:
    return REMEDY if sdk.version >= (0, 4, 19) else ""


def _finished(sdk: Sdk) -> dict[str, Rollout]:
    return {str(item.input): item for item in sdk.rollouts() if item.status != "running" and item.input}


def test_kill_of_the_server_after_the_answer(sdk: Sdk, server: str) -> None:
    """A server that is killed with SIGKILL right after a 2xx has the spans; its replacement takes those of others."""
    code = """
import os, signal, agentops
agentops.init(auto_start_session=False, instrument_llm_calls=False)
for name in os.environ["NAMES"].split():
    agentops.end_trace(agentops.start_trace(name), "Success")  # returns after the answer
if "SERVER_PID" in os.environ:
    os.kill(int(os.environ["SERVER_PID"]), signal.SIGKILL)
"""
    found = next(process for process in psutil.process_iter() if _serves(process, server))
    sdk.run(_mended(sdk) + code, NAMES="a b", patience_s=60, SERVER_PID=str(found.pid)).check()
    wait_until(lambda: not psutil.pid_exists(found.pid))
    assert set(_finished(sdk)) == {"a Success", "b Success"}
    sdk.run(_mended(sdk) + code, patience_s=60, NAMES="c").check()
    assert set(_finished(sdk)) == {f"{name} Success" for name in "abc"}


def _serves(process: psutil.Process, url: str) -> bool:
    try:
        return process.uids().real == os.getuid() and process.cmdline()[:1] == [
            f"agl-agentops: {url.partition('//')[2]}"
        ]
    except (psutil.Error, OSError):
        return False
