"""Redaction: credentials never leave the worker thread.

Two layers. The key layer: a value under a name that means a credential is replaced, in attributes, in JSON and other
texts, and so are the values of such variables of the process's environment. The value layer: rules, kept as data, that
recognise a credential by its shape. Numbers are never touched: token counts, token ids and log-probabilities are what
we exist for.

``rules_hash()`` names a rule set: a server whose hash is that of its client need not look again.
"""

from agentlightning.pipeline.redaction.redactor import REPLACEMENT, Redactor, Secret, environment_secrets
from agentlightning.pipeline.redaction.rule import rules_hash

__all__ = ["REPLACEMENT", "Redactor", "Secret", "environment_secrets", "rules_hash"]
