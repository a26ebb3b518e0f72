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
    ANNOTATION = "agentlightning.annotation"
    """What somebody says about another span, which it links to; any attributes."""
    VIRTUAL = "agentlightning.virtual"
    """A span that no program made: the root that readers draw over a rollout."""


class SpanAttributeNames(str, Enum):
    """Attributes of the emitters' spans."""

    MESSAGE = "message"
    """Text of a message span."""
    OBJECT = "object"
    """JSON text of an object span."""


class ExceptionAttributes(str, Enum):
    """Attributes of OpenTelemetry that exception spans have."""

    EXCEPTION_TYPE = "exception.type"
    """Qualified class name."""
    EXCEPTION_MESSAGE = "exception.message"
    """Text."""
    EXCEPTION_STACKTRACE = "exception.stacktrace"
    """Formatted traceback."""
    EXCEPTION_ESCAPED = "exception.escaped"
    """Whether the exception left the span."""


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

REDACTED_RULES = "agentlightning.redacted_rules"
"""What was replaced in a span, list of str: ``rule:count``, such as ``openai-api-key:2``."""

TRUNCATED = "agentlightning.truncated"
"""Keys of attributes of a span whose value was cut to the size limit, list of str."""

KEEP = "agentlightning.keep"
"""Given when a span starts: False leaves it out (counted ``filtered``), True keeps it whatever the sample rate is."""

INCLUSION = "agentlightning.inclusion_probability"
"""With which probability this span was kept, float above 0 and below 1; a span without it was kept for sure. Sums over
spans that weigh each by its inverse are unbiased."""

SAMPLING = "agentlightning.sampling"
"""Name of the span that a trace gets which a tail rule would have kept anyway: its spans count once each. Its
attribute ``agentlightning.sampling.reason`` names the rule."""

SAMPLING_REASON = "agentlightning.sampling.reason"
"""Which tail rule kept a trace: ``error``, ``reward``, ``slow`` or ``cost``."""

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

EVENT_TYPE = "agentlightning.event.type"
"""Type of a custom event, on the span that stands for it."""

EVENT_VERSION = "agentlightning.event.version"
"""Version of the schema of a custom event, int; absent for 1."""

EVENT_JSON = "agentlightning.event.json"
"""Keys of attributes of an event, an annotation or an operation whose value is JSON text, list of str."""

REWARD_PREFIX = "agentlightning.reward."
"""Named rewards: ``agentlightning.reward.N.name`` and ``.value``; number 0 is the primary one."""

TARGET = "agentlightning.target"
"""Id of the span that an annotation or a late reward is about, 16 hexadecimal digits; the span has a link to it too."""

INTEGRITY = "agentlightning.integrity"
"""Rules that a span breaks, list of str; it was stored as it came."""

STAGES = "agentlightning.stages"
"""When a span passed each stage of the pipeline, list of int: its place in the queue, then nanoseconds since 1970
(taken from the queue, prepared, spilled, given to the store; 0: not passed). Only while the log is at DEBUG."""

SUPPRESS = "suppress_instrumentation"
"""Key of OpenTelemetry's context by which code asks instrumentors for silence."""
