"""A plain, a raw and a streamed call, for servers with token ids in other places."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import os

import agentops
import openai

agentops.init(api_key="11111111-1111-4111-8111-111111111111", auto_start_session=False)
ASK = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "hello"}],
    "extra_body": {"return_token_ids": True},
}
for name in ("vllm-old", "litellm"):
    chat = openai.OpenAI(base_url=os.environ[f"URL_{name}"]).chat.completions
    trace = agentops.start_trace(name)
    chat.create(**ASK)
    chat.with_raw_response.create(**ASK).parse()
    list(chat.create(stream=True, **ASK))
    agentops.end_trace(trace, "Success")
