"""Rollouts as files, and files as rollouts: which calls are taken, why the others are not, how each format writes them.

==========  ===========================================================================================
format      one line, or row, is
==========  ===========================================================================================
triplets    a call: token ids of prompt and response, log-probabilities, reward
messages    a call: chat messages with the answer last, tools
sft         a conversation at its longest, as supervised fine-tuning takes it: messages, tools
dpo         two conversations from one task whose rewards differ: prompt, chosen, rejected
trl         a call as TRL takes it: prompt, completion, reward, ``prompt_ids completion_ids logprobs``
atif        a trajectory of the Agent Trajectory Interchange Format, with the whole rollout in it
jsonl       a rollout, an attempt or a span: everything, read back as it was
parquet     a span, with its facts and token ids as columns
==========  ===========================================================================================
"""
