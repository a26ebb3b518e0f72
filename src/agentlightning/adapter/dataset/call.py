"""The model calls of a rollout, ready to be written in any format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from agentlightning import semconv
from agentlightning.adapter.dataset import coverage as why
from agentlightning.adapter.messages import chat_messages, offered, one_answer
from agentlightning.adapter.tree import DEFAULT_LLM_CALL_MATCH, RewardMatchPolicy, TraceTree, each_answer_once
from agentlightning.view.messages import Conversation, messages
from agentlightning.view.tokens import TokenIds, token_ids

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentlightning.adapter.dataset.coverage import Coverage
    from agentlightning.adapter.messages import ChatMessage
    from agentlightning.types.core import Attempt, Rollout
    from agentlightning.types.tracer import Span


@dataclass(frozen=True)
class Selection:
    """Which calls are training data, and whose reward is whose."""

    agent_match: str | None = None
    """Regular expression that must be found in the name of an agent above the call."""
    reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE
    min_reward: float | None = None
    """Rollouts whose final reward is lower, or that have none, are left out."""


class Recorded(NamedTuple):
    """A rollout as it was read from a store."""

    rollout: Rollout
    attempts: list[Attempt]
    """All of it where the format keeps everything, else the one whose spans these are."""
    spans: list[Span]


class Call:
    """One model call."""

    def __init__(self, recorded: Recorded, node: TraceTree, witnesses: list[Span], agent: str) -> None:
        """Take a call of *recorded* that *witnesses* recorded; the first is its own span."""
        self.recorded = recorded
        self.node = node
        self.span = witnesses[0]
        self.agent = agent
        self.reward: float | None = None
        self._witnesses = witnesses

    @cached_property
    def tokens(self) -> TokenIds:
        """The token ids, from the first span that has any."""
        return next((known for known in (token_ids(span.attributes) for span in self._witnesses) if known), TokenIds())

    @cached_property
    def conversation(self) -> Conversation:
        """What was sent and answered, from the first span that has it."""
        below = [child.span.attributes for child in self.node.children]
        every = (messages(span.attributes, children=below) for span in self._witnesses)
        return next((found for found in every if found.input or found.output), Conversation())

    @property
    def prompt(self) -> list[ChatMessage]:
        """What was sent, in OpenAI's form."""
        return chat_messages(self.conversation.input)

    @property
    def completion(self) -> list[ChatMessage]:
        """The answer, in OpenAI's form; empty where none was recorded."""
        return chat_messages(one_answer(list(self.conversation.output)))

    @property
    def tools(self) -> list[dict[str, object]]:
        """The tools that were offered, in OpenAI's form."""
        return [offered(tool) for tool in self.conversation.tools]

    @property
    def where(self) -> dict[str, object]:
        """Which call it is, for whoever asks later."""
        return {
            "rollout_id": self.recorded.rollout.rollout_id,
            "attempt_id": self.span.attempt_id,
            "trace_id": self.span.trace_id,
            "span_id": self.span.span_id,
            "response_id": self.node.facts.response_id,
            "agent_name": self.agent,
            "model": self.node.facts.model,
        }


def calls_of(recorded: Recorded, selection: Selection, coverage: Coverage) -> list[Call]:
    """Return the calls of a rollout that ended well, with their rewards; all others are counted in *coverage*.

    Calls that a reward function made are no actions of the agent and are not counted at all, nor are those of agents
    that were not asked for.
    """
    coverage.rollouts += 1
    _note_rollout(recorded, coverage)
    if not recorded.spans:
        return []
    tree = TraceTree.from_spans(recorded.spans)
    tree.repair_hierarchy()
    found = tree.find_llm_calls(
        llm_call_match=DEFAULT_LLM_CALL_MATCH,
        agent_match=selection.agent_match,
        within_reward=False,
        within_llm_call=False,
    )
    every = each_answer_once(found, set())
    coverage.calls += len(found)
    if len(found) > len(every):
        coverage.left_out[why.REPEATED] += len(found) - len(every)
    if not every:
        coverage.rollouts_noted[why.NO_CALLS] += 1
    rewards = tree.match_rewards(selection.reward_match, [node for node, _ in every])
    witnesses = tree.witnesses([node for node, _ in every])
    too_little = selection.min_reward is not None and not _is_enough(tree, selection.min_reward)
    kept: list[Call] = []
    for node, agent in every:
        call = Call(recorded, node, witnesses[node.id], agent)
        call.reward = rewards.get(node.id)
        reason = why.TOO_LITTLE if too_little else _unusable(call)
        if reason:
            coverage.left_out[reason] += 1
        else:
            kept.append(call)
    return kept


def final_reward(nodes: Iterable[TraceTree]) -> float | None:
    """Return the last reward among *nodes*, in whatever order they are, or None."""
    rewards = [node for node in nodes if node.is_reward_span() and node.facts.reward is not None]
    return max(rewards, key=lambda node: node.order).facts.reward if rewards else None


def note_exported(call: Call, coverage: Coverage) -> None:
    """Count a call that is in the file, and what is odd about it."""
    coverage.exported += 1
    coverage.noted.update(oddities(call))


def oddities(call: Call) -> list[str]:
    """Return what is odd about a call that is exported all the same."""
    found: list[str] = []
    if call.reward is None:
        found.append(why.NO_REWARD)
    if len(call.tokens.choices) > 1 or _has_choices(call):
        found.append(why.ANSWERS)
    if semconv.STREAM_STATE in call.span.attributes:
        found.append(why.CUT_SHORT)
    return found


def _unusable(call: Call) -> str:
    """Return why a call is no training data in any format, or nothing."""
    if call.span.end_time is None:
        return why.OPEN
    return why.FAILED if call.span.status.status_code == "ERROR" else ""


def _has_choices(call: Call) -> bool:
    output = call.conversation.output
    return len(output) > 1 and len(one_answer(list(output))[0].parts) == len(output[0].parts)


def _is_enough(tree: TraceTree, minimum: float) -> bool:
    reward = final_reward(tree.traverse())
    return reward is not None and reward >= minimum


def _note_rollout(recorded: Recorded, coverage: Coverage) -> None:
    numbers = sorted(span.sequence_id for span in recorded.spans)
    if numbers and (numbers[0] > 1 or numbers[-1] - numbers[0] >= len(numbers)) and len(recorded.attempts) == 1:
        coverage.rollouts_noted[why.GAP] += 1
    if recorded.rollout.status not in {"succeeded", "failed", "cancelled"}:
        coverage.rollouts_noted[why.UNFINISHED] += 1
    if not recorded.spans:
        coverage.rollouts_noted[why.NO_CALLS] += 1
