"""``agl bench``: what tracing costs on this machine, against a plain OpenTelemetry batch processor in the same run.

The measuring modules are used by the scripts in ``benchmarks`` too, which have longer forms and bars.
"""

from agentlightning.cli.bench.command import command

__all__ = ["command"]
