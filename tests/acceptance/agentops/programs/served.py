"""An ordinary program of the SDK that makes two calls, and one that the SDK has no span for."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import time

import agentops
import openai

begin = time.monotonic()
agentops.init(auto_start_session=False)
chat = openai.OpenAI().chat.completions
ASK = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "hello"}],
    "extra_body": {"return_token_ids": True},
}
trace = agentops.start_trace("served", tags=["a"])
chat.create(**ASK)
list(chat.create(stream=True, **ASK))
chat.parse(**ASK)
agentops.end_trace(trace, "Success")
print(time.monotonic() - begin)
