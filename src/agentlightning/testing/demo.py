"""``make demo``: trace the two example programs and show what was recorded.

Without ``OPENAI_API_KEY`` a model server on loopback answers by rules; with it, the real endpoint does
(``OPENAI_BASE_URL`` and ``MODEL`` as usual). The store is made anew in ``.demo/`` of the working directory.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.testing.model_server import ModelServer
from agentlightning.testing.reply import Reply, ToolCall
from agentlightning.testing.rule import AgentRule

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from agentlightning.testing.request import ChatRequest

__all__ = ["answer", "main"]

_EXAMPLES = ("openai_agent.py", "smolagents_agent.py")
_DELAY_S = 0.12
_CHUNK_DELAY_S = 0.01

_WALK = AgentRule(
    plan=(ToolCall("get_weather", {"city": "Lisbon"}), ToolCall("get_sights", {"city": "Lisbon"})),
    answer="It is 18 degrees and sunny: start in Alfama, take tram 15 along the river, end at Belem Tower.",
)
_INVITATION = "Meet me in Alfama at two, the sun is out. We end at Belem Tower, and the pastry is on me."
_BILL = AgentRule(
    plan=(
        ToolCall("get_price", {"product": "coffee"}),
        ToolCall("get_price", {"product": "croissant"}),
        ToolCall("calculator", {"task": "Compute 3 * 3.20 + 2 * 2.40 and round it to cents."}),
    ),
    code=("total = 3 * 3.20 + 2 * 2.40\nprint(total)", "final_answer(round(total, 2))"),
    answer="Three coffees and two croissants cost 14.40 euros together.",
)


def answer(request: ChatRequest) -> Reply:
    """Answer the requests of both examples, with the delays of a small model nearby."""
    if request.stream:
        reply = Reply(_INVITATION)
    elif "get_weather" in request.tool_names:
        reply = _WALK(request)
    else:
        reply = _BILL(request)
    return replace(reply, delay_s=_DELAY_S, chunk_delay_s=_CHUNK_DELAY_S)


def main() -> int:
    """Run the demonstration; return 0 when every step succeeded, else 1."""
    examples = _examples_folder()
    if examples is None:
        print("the examples are not here: run this in a clone of the project", file=sys.stderr)
        return 1
    folder = Path(".demo")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with _model_environment() as model:
        store = str(folder.resolve() / "agentlightning.db")
        environment = {**os.environ, **model, "AGL_STORE": store, "PAGER": "cat"}
        results = [_agl(step, environment) for step in _steps(examples)]
    failed = results.count(False)
    if failed:
        print(f"{failed} of {len(results)} steps failed", file=sys.stderr)
    return 1 if failed else 0


def _examples_folder() -> Path | None:
    """Return the examples, below the working directory or in the clone that this module is run from."""
    candidates = (Path("examples"), Path(__file__).resolve().parents[3] / "examples")
    return next((folder for folder in candidates if (folder / _EXAMPLES[0]).is_file()), None)


def _steps(examples: Path) -> Iterator[list[str]]:
    for name in _EXAMPLES:
        yield ["run", "python", os.path.relpath(examples / name)]
        yield ["show", "latest"]
    yield ["ls"]


@contextlib.contextmanager
def _model_environment() -> Generator[Mapping[str, str]]:
    if os.environ.get("OPENAI_API_KEY"):
        print(f"# Using the model at {os.environ.get('OPENAI_BASE_URL', 'https://api.openai.com/v1')}")
        yield {}
        return
    with ModelServer(answer) as server:
        print(f"# OPENAI_API_KEY is not set: a model server on loopback ({server.url}) answers by rules")
        yield server.environment


def _agl(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Run one ``agl`` command as a user would, after showing it; return whether it succeeded."""
    print(f"\n$ agl {shlex.join(arguments)}", flush=True)
    # The command that was installed with this package, also where its folder is not on the PATH.
    command = [sys.executable, "-m", "agentlightning.cli", *arguments]
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return subprocess.run(command, env={**environment, "PATH": path}, check=False).returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
