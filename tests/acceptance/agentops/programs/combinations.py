"""The client is the program's own, or managed without instrumentation; printed is what each tracer recorded."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
import os
import sys

import agentops
import openai

from agentlightning import AgentOpsTracer
from agentlightning.instrumentation import uninstrument_all

ASK = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "hello"}],
    "extra_body": {"return_token_ids": True},
}
found = {}


def call(name: str, tracer: AgentOpsTracer) -> None:
    """Make a call and note what came of it."""
    with tracer.trace_context(name):
        openai.OpenAI().chat.completions.create(**ASK)
    found[name] = {
        "spans": [[span.name, "response_token_ids" in (span.attributes or {})] for span in tracer.get_last_trace()],
        "engine": tracer.engine,
        "server": tracer._manager is not None,
        "initialized": agentops.get_client().initialized,
    }


managed = AgentOpsTracer(instrument_managed=False)
call("managed, not instrumented", managed)
managed.teardown()
found["afterwards"] = agentops.get_client().initialized

# From here on the client is the program's; it talks to a server on this machine that is away.
os.environ.update(AGENTOPS_API_ENDPOINT="http://127.0.0.1:9", AGENTOPS_EXPORTER_ENDPOINT="http://127.0.0.1:9/v1/traces")
instrumented = AgentOpsTracer(agentops_managed=False)
instrumented.init()
instrumented.init_worker(0)
agentops.init(api_key="11111111-1111-4111-8111-111111111111", auto_start_session=False)
call("instrumented, not managed", instrumented)
instrumented.teardown()
found["still the program's"] = agentops.get_client().initialized
uninstrument_all()
bare = AgentOpsTracer(agentops_managed=False, instrument_managed=False)
call("neither", bare)
bare.teardown()
sys.stdout.write(json.dumps(found) + "\n")
sys.stdout.flush()
os._exit(0)  # the SDK, as it is now, would try to reach the server that is away
