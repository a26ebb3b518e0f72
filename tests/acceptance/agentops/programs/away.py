"""How long the SDK holds a program up while its server is away, beside the same with spans that are sent nowhere."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
import os
import time

import agentops

from agentlightning.instrumentation.agentops import instrument_agentops

assert instrument_agentops()
begin = time.monotonic()
agentops.init(api_key="11111111-1111-4111-8111-111111111111", auto_start_session=False)
ready = time.monotonic()
for number in range(5):
    trace = agentops.start_trace(f"trace-{number}")
    agentops.end_trace(trace, "Success")
done = time.monotonic()
report = {"init_s": ready - begin, "work_s": done - ready, "initialized": agentops.get_client().initialized}
print(json.dumps(report), flush=True)
os._exit(0)
