"""Model calls as triplets of prompt, response and reward: what reinforcement learning trains on.

The tokens are those that the engine reported. Nothing is ever tokenised again: text that is encoded a second time
gives other tokens than were sampled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from agentlightning.adapter.base import TraceAdapter
from agentlightning.adapter.tree import ANY_AGENT, DEFAULT_LLM_CALL_MATCH, RewardMatchPolicy, TraceTree
from agentlightning.types.core import Triplet
from agentlightning.types.tracer import Span
from agentlightning.view.facts import facts
from agentlightning.view.tokens import TokenIds, token_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

__all__ = [
    "LlmProxyTraceToTriplet",
    "RewardMatchPolicy",
    "TraceToTripletBase",
    "TraceTree",
    "TracerTraceToTriplet",
    "Transition",
    "triplet",
]


class Transition(BaseModel):
    """A model call as one step of a Markov decision process."""

    state: list[int]
    """Token ids of the prompt."""
    action: list[int]
    """Token ids that were sampled."""
    response_id: str | None
    agent_name: str
    reward: float | None


def triplet(spans: Sequence[Span], agent_name: str) -> Triplet:
    """Return the call that *spans* recorded; its own is the first, and the tokens are of the first that has any."""
    known = next((known for known in (token_ids(each.attributes) for each in spans) if known), TokenIds())
    return triplet_of(spans[0], known, agent_name)


def triplet_of(span: Span, tokens: TokenIds, agent_name: str) -> Triplet:
    """Return the call that *span* recorded, without a reward.

    ``prompt`` is ``{"token_ids": list[int]}``; ``response`` is ``{"token_ids": list[int]}``, with ``"logprobs"``, a
    float for each of them, where they are known. Lists are empty where the server reported no ids. Of several answers
    to one call it is the first.
    """
    answer = next((choice for choice in tokens.choices if choice.index == 0), None)
    found = facts(span.name, span.attributes, scope=span.scope_name)
    response: dict[str, list[int] | list[float]] = {"token_ids": list((answer and answer.ids) or ())}
    if answer is not None and answer.logprobs is not None:
        response["logprobs"] = list(answer.logprobs)
    return Triplet(
        prompt={"token_ids": list(tokens.prompt or ())},
        response=response,
        metadata={
            "response_id": found.response_id,
            "agent_name": agent_name,
            "model": found.model,
            "trace_id": span.trace_id,
            "span_id": span.span_id,
        },
    )


class TraceToTripletBase(TraceAdapter["list[Triplet]"]):
    """An adapter that gives triplets."""


class TracerTraceToTriplet(TraceToTripletBase):
    """Reads what a tracer recorded in the agent's own process."""

    def __init__(
        self,
        repair_hierarchy: bool = True,  # noqa: FBT001, FBT002 - signature of the API sheet
        llm_call_match: str = DEFAULT_LLM_CALL_MATCH,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,  # noqa: FBT001, FBT002
        reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
        _skip_empty_token_spans: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Choose what counts as a call, and whose reward is whose.

        Args:
            repair_hierarchy: Put spans that lost their parent under the span whose time contains them.
            llm_call_match: The default finds every model call of any library; another regular expression is searched
                in the name of the span.
            agent_match: Only calls of agents in whose name this regular expression is found.
            exclude_llm_call_in_reward: Leave out what a reward function called.
            reward_match: Which call a reward belongs to.
            _skip_empty_token_spans: Leave out calls whose token ids are not known.
        """
        self.repair_hierarchy = repair_hierarchy
        self.llm_call_match = llm_call_match
        self.agent_match = agent_match
        self.exclude_llm_call_in_reward = exclude_llm_call_in_reward
        self.reward_match = RewardMatchPolicy(reward_match)
        self._skip_empty_token_spans = _skip_empty_token_spans

    def visualize(
        self,
        source: list[Span] | list[ReadableSpan],
        filename: str = "trace_tree",
        interested_span_match: str | None = None,
    ) -> TraceTree:
        """Draw the tree that ``adapt`` would read into ``FILENAME.png``, and return it.

        Raises:
            ValueError: There are no spans.
            MissingExtraError: The extra ``plot`` is not installed.
        """
        tree = self._tree(stored(source))
        tree.visualize(filename, interested_span_match)
        return tree

    def adapt(self, source: list[Span] | list[ReadableSpan]) -> list[Triplet]:
        """Return the calls of one attempt in the order in which they started; no spans give none."""
        spans = stored(source)
        if not spans:
            return []
        return self._tree(spans).to_trajectory(
            llm_call_match=self.llm_call_match,
            agent_match=self.agent_match,
            exclude_llm_call_in_reward=self.exclude_llm_call_in_reward,
            reward_match=self.reward_match,
            _skip_empty_token_spans=self._skip_empty_token_spans,
        )

    def _tree(self, spans: list[Span]) -> TraceTree:
        tree = TraceTree.from_spans(spans)
        if self.repair_hierarchy:
            tree.repair_hierarchy()
        return tree


class LlmProxyTraceToTriplet(TraceToTripletBase):
    """Reads what a model proxy recorded: calls without a tree, in the order of their numbers.

    A proxy sees no agents and no parents, so a reward belongs to the last call before it that has none.
    """

    def adapt(self, source: list[Span]) -> list[Triplet]:
        """Return the calls of one attempt whose token ids are known, each answer once."""
        made: list[Triplet] = []
        answers: set[str] = set()
        for span in sorted(source, key=lambda span: span.sequence_id):
            found = facts(span.name, span.attributes, scope=span.scope_name)
            if found.kind == "reward" and found.reward is not None:
                if made and made[-1].reward is None:
                    made[-1].reward = found.reward
                continue
            if found.kind != "llm" or (found.response_id and found.response_id in answers):
                continue
            call = triplet([span], found.agent_name or ANY_AGENT)
            if call.prompt["token_ids"] and call.response["token_ids"]:
                answers.add(found.response_id or "")
                made.append(call)
        return made


def stored(source: Sequence[Span] | Sequence[ReadableSpan]) -> list[Span]:
    """Return spans as a store would give them back; the place in the list is their number where they have none."""
    return [
        span if isinstance(span, Span) else Span.from_opentelemetry(span, "", "", place)
        for place, span in enumerate(source, 1)
    ]
