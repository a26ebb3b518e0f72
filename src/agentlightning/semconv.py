"""Names of the spans and attributes that Agent Lightning writes itself.

Names of other dialects (OpenTelemetry GenAI, OpenInference, OpenLLMetry, AgentOps) are read in ``view`` only.
Standard library only.
"""

from enum import Enum


class SpanNames(str, Enum):
    """Names of the spans that the emitters write."""

    REWARD = "agentlightning.reward"
    """A reward in the sense of reinforcement learning; value in attribute ``reward``."""
    MESSAGE = "agentlightning.message"
    """A text message; value in attribute ``message``."""
    OBJECT = "agentlightning.object"
    """Any object as JSON text; value in attribute ``object``."""
    EXCEPTION = "agentlightning.exception"
    """An exception; attributes ``exception.*`` of OpenTelemetry."""
    VIRTUAL = "agentlightning.virtual"
    """A span that no program made: the root that readers draw over a rollout."""


class SpanAttributeNames(str, Enum):
    """Attributes of the emitters' spans."""

    MESSAGE = "message"
    """Text of a message span."""
    OBJECT = "object"
    """JSON text of an object span."""


ROLLOUT_ID = "agentlightning.rollout_id"
"""Rollout that a span belongs to; stamped when the span starts."""

ATTEMPT_ID = "agentlightning.attempt_id"
"""Attempt that a span belongs to; stamped when the span starts."""

REWARD = "reward"
"""Value of a reward span, float."""

OBJECT_TYPE = "agentlightning.object.type"
"""Qualified name of the class of an emitted object, on object spans."""

OUTPUT = "agentlightning.output"
"""True on the object span that holds the output of a rollout."""

REDACTED = "agentlightning.redacted"
"""Keys of attributes of a span whose value was replaced because it held a credential, list of str."""

TRUNCATED = "agentlightning.truncated"
"""Keys of attributes of a span whose value was cut to the size limit, list of str."""

DROPPED_ATTRIBUTES = "agentlightning.dropped_attributes"
"""How many attributes the span limit of a joined provider dropped, int."""

PROMPT_TOKEN_IDS = "prompt_token_ids"  # noqa: S105 - a name, not a password
"""Token ids of the prompt as the engine saw them, list of int."""

RESPONSE_TOKEN_IDS = "response_token_ids"  # noqa: S105 - a name, not a password
"""Token ids that the engine sampled, list of int; choice N > 0 is ``response_token_ids.N``."""

LOGPROBS = "logprobs.content"
"""Log-probabilities of the sampled tokens; choice N > 0 is ``logprobs.content.N``."""

INVALID = "agentlightning.invalid"
"""Names of arrays of an answer that were ignored because they do not hold what their name says, list of str."""

EXCEPTION_TYPE = "exception.type"
"""OpenTelemetry: qualified class name of an exception."""

EXCEPTION_MESSAGE = "exception.message"
"""OpenTelemetry: text of an exception."""

EXCEPTION_STACKTRACE = "exception.stacktrace"
"""OpenTelemetry: formatted traceback of an exception."""

EXCEPTION_ESCAPED = "exception.escaped"
"""OpenTelemetry: whether the exception left the span."""

OPENINFERENCE_KIND = "openinference.span.kind"
"""OpenInference: LLM, AGENT, TOOL, CHAIN, ...; what our own instrumentors write, like the OpenInference ones."""

INPUT_VALUE = "input.value"
"""OpenInference: input of a span, text or JSON."""

INPUT_MIME_TYPE = "input.mime_type"
"""OpenInference: ``application/json`` or ``text/plain``."""

OUTPUT_VALUE = "output.value"
"""OpenInference: output of a span, text or JSON."""

OUTPUT_MIME_TYPE = "output.mime_type"
"""OpenInference: ``application/json`` or ``text/plain``."""

STREAM_STATE = "agentlightning.stream"
"""How a stream ended that was not read to its end: ``closed_early`` or ``failed``."""

ALERT = "agentlightning.alert"
"""Name of the span that a runner writes for an alert, and of its event with ``name``, ``value``, ``threshold``."""
