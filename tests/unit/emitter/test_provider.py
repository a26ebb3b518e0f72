"""The emitters with the real tracer of a program that has set up none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
from agentlightning.emitter import emit_exception, emit_message, emit_object, emit_reward, get_reward_value, reward

emit_message("m")
emit_object({"a": object()})
emit_exception(ValueError("v"))
span = emit_reward(True)
assert span.name == "agentlightning.reward" and get_reward_value(span) == 1.0
assert reward(lambda: 2)() == 2
print("done")
"""


@pytest.mark.parametrize("enabled", ["0", "1"])
def test_a_program_without_any_tracer_runs_as_before(enabled: str) -> None:
    """Switched on or off, a program that emits prints what it prints and nothing else."""
    env = {**os.environ, "AGL_ENABLED": enabled}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_switched_off_nothing_is_loaded() -> None:
    """With capture off, emitting loads no OpenTelemetry and does not even look at the object."""
    program = (
        "import sys\nfrom agentlightning.emitter import emit_exception, emit_message, emit_object, reward\n"
        "class Loud:\n    def __repr__(self): print('looked at'); return ''\n"
        "emit_message('m'); emit_object(Loud()); emit_exception(ValueError()); assert reward(lambda: 2)() == 2\n"
        "assert 'opentelemetry' not in sys.modules\n"
    )
    env = {**os.environ, "AGL_ENABLED": "0"}
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, env=env, check=True, timeout=60, stdout=subprocess.PIPE).stdout == b""
