"""A program of the SDK that asks for token ids and for nothing else: no tracer of ours, no ``agl run``."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import agentops
import openai

from agentlightning.instrumentation.agentops import instrument_agentops

assert instrument_agentops()
agentops.init(auto_start_session=False)
chat = openai.OpenAI().chat.completions
ASK = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "hello"}],
    "extra_body": {"return_token_ids": True},
}
trace = agentops.start_trace("exported", tags=["a"])
chat.create(**ASK)
chat.parse(**ASK)
list(chat.create(stream=True, **ASK))
agentops.end_trace(trace, "Success")
