"""The spans of one attempt as a tree that training data is read from: calls, agents, rewards.

What a span means (its kind, agent, reward) is the view's business; here is what training needs beyond it. Nothing
recurses, so a chain of 100,000 spans is as good as any other tree. A tree is built for one reader; it is not
thread-safe.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from agentlightning.adapter.repair import homes
from agentlightning.semconv import TARGET
from agentlightning.types.query import SpanRow
from agentlightning.types.tracer import Span
from agentlightning.view.facts import facts
from agentlightning.view.tree import build
from agentlightning.view.witness import Sight, witnesses

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentlightning.types.core import Triplet
    from agentlightning.types.query import SpanFacts
    from agentlightning.types.record import JsonObject

DEFAULT_LLM_CALL_MATCH = r"openai\.chat\.completion"
"""Stands for the leaf LLM calls of the view, whoever wrote them; any other pattern is searched in the span's name."""

VIRTUAL_ROOT = "virtual-root"
"""Name of the span that is made where an attempt has several roots."""

ANY_AGENT = "*"
"""Name of the agent of a call that lies below no agent."""


class RewardMatchPolicy(str, Enum):
    """Which call a reward belongs to: the last one that had ended when the reward came, and has none yet."""

    FIRST_SIBLING = "first_sibling"
    """Only calls with the same parent as the reward."""
    FIRST_OCCURRENCE = "first_occurrence"
    """All calls of the attempt."""


class TraceTree:
    """A span with the spans below it."""

    def __init__(self, id: str, span: Span, children: list[TraceTree] | None = None) -> None:  # noqa: A002 - API sheet
        """Make a node; *id* is the id of its span."""
        self.id = id
        self.span = span
        self.children: list[TraceTree] = [] if children is None else children

    @property
    def start_time(self) -> float | None:
        """Seconds since the epoch."""
        return self.span.start_time

    @property
    def end_time(self) -> float | None:
        """Seconds since the epoch; None for a span that is still open."""
        return self.span.end_time

    @cached_property
    def start_ns(self) -> int:
        """Nanoseconds since the epoch; 0 where no start is known."""
        return _ns(self.span.start_time_ns, self.span.start_time) or 0

    @cached_property
    def end_ns(self) -> int | None:
        """Nanoseconds since the epoch; None for a span that is still open."""
        return _ns(self.span.end_time_ns, self.span.end_time)

    @property
    def order(self) -> tuple[int, int, int]:
        """Start, then order of hand-over, then number: the order in which things happened, not in which they came."""
        return self.start_ns, self.span.counter, self.span.sequence_id

    @cached_property
    def facts(self) -> SpanFacts:
        """What the view finds in the attributes."""
        return facts(self.span.name, self.span.attributes, scope=self.span.scope_name)

    @classmethod
    def from_spans(cls, spans: list[Span]) -> TraceTree:
        """Return the tree of *spans*, which belong to one attempt and are in any order.

        A span whose parent is not among them is a root. Several roots get a virtual root named ``virtual-root``. Of
        spans that are each other's ancestors the earliest becomes a root.

        Raises:
            ValueError: There are no spans.
        """
        if not spans:
            msg = "there are no spans to make a tree of; did the rollout record any?"
            raise ValueError(msg)
        unique = {(span.trace_id, span.span_id): span for span in spans}
        nodes = {key: cls(span.span_id, span) for key, span in unique.items()}
        roots: list[TraceTree] = []
        for view_node in build([_row(node, node.span.parent_id) for node in nodes.values()]).walk():
            row = view_node.row
            if row is None:
                continue
            node = nodes[row.trace_id, row.span_id]
            if view_node.depth == 1:
                roots.append(node)
            for child in view_node.children:
                if child.row is not None:
                    node.add_child(nodes[child.row.trace_id, child.row.span_id])
        return roots[0] if len(roots) == 1 else cls._over(roots)

    @classmethod
    def _over(cls, roots: list[TraceTree]) -> TraceTree:
        first = roots[0].span
        span = Span.from_attributes(
            attributes={},
            rollout_id=first.rollout_id,
            attempt_id=first.attempt_id,
            sequence_id=0,
            name=VIRTUAL_ROOT,
            trace_id=first.trace_id,
            start_time=min(root.start_ns for root in roots) / 1e9,
            end_time=max(root.end_ns or root.start_ns for root in roots) / 1e9,
        )
        return cls(span.span_id, span, roots)

    def find_id(self, id: str) -> TraceTree | None:  # noqa: A002 - API sheet
        """Return the node with this span id, or None."""
        return next((node for node in self.traverse() if node.id == id), None)

    def add_child(self, child: TraceTree) -> None:
        """Put *child* behind the other children."""
        self.children.append(child)

    def traverse(self) -> list[TraceTree]:
        """Return this node and all below it, parents first, siblings in order."""
        found: list[TraceTree] = []
        stack: list[TraceTree] = [self]
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(reversed(node.children))
        return found

    def names_tuple(self) -> tuple[str, list[object]]:
        """Return the name of this span and, as a list, the same of its children."""
        made = {id(node): (node.span.name, list[object]()) for node in self.traverse()}
        for node in self.traverse():
            made[id(node)][1].extend(made[id(child)] for child in node.children)
        return made[id(self)]

    def to_json(self) -> JsonObject:
        """Return the tree as plain data: ``id``, ``span`` and ``children`` of each node."""
        made: dict[int, JsonObject] = {
            id(node): {"id": node.id, "span": node.span.model_dump(), "children": []} for node in self.traverse()
        }
        for node in self.traverse():
            made[id(node)]["children"].extend(made[id(child)] for child in node.children)
        return made[id(self)]

    def visualize(self, filename: str, interested_span_match: str | None = None) -> None:
        """Draw the tree over time into ``FILENAME.png``.

        Args:
            filename: Path without its suffix.
            interested_span_match: Regular expression; only spans whose name it is found in, and those above them.

        Raises:
            MissingExtraError: The extra ``plot`` is not installed.
        """
        from agentlightning.adapter.picture import draw  # noqa: PLC0415 - needs an extra

        draw(self, filename, interested_span_match)

    def agent_name(self) -> str | None:
        """Return the name of the agent that this span is, or says that it belongs to; None where it says neither."""
        return self.facts.agent_name or (self.span.name if self.facts.kind == "agent" else None)

    def maybe_reward_dict(self) -> dict[str, object]:
        """Return ``{"type": "reward", "value": float | None}`` for a reward span, else an empty dict."""
        return {"type": "reward", "value": self.facts.reward} if self.is_reward_span() else {}

    def is_reward_span(self) -> bool:
        """Whether this span is a reward, ours or one of AgentOps."""
        return self.facts.kind == "reward"

    def find_llm_calls(
        self,
        *,
        llm_call_match: str,
        agent_match: str | None,
        within_matching_subtree: str | None = None,
        within_reward: bool | None = None,
        within_llm_call: bool | None = None,
        existing_llm_call_response_ids: set[str] | None = None,
    ) -> list[tuple[TraceTree, str]]:
        """Return the model calls in this tree in the order in which they started, each with the name of its agent.

        Args:
            llm_call_match: The default pattern finds the leaf LLM calls of the view; any other is searched in the
                name of the span.
            agent_match: Regular expression that must be found in the name of an agent above the call, or of the call
                itself; None: any call.
            within_matching_subtree: Name of an agent above this node that has matched already.
            within_reward: False leaves out what a reward function called; True finds nothing; None takes all.
            within_llm_call: None keeps a call that is above another one; otherwise only the innermost counts.
            existing_llm_call_response_ids: Ids of answers that are known; each id is taken once, from the span that
                has its tokens, and is added to the set. None: ids are not compared.
        """
        if within_reward:
            return []
        calls = self._calls(llm_call_match, innermost=within_llm_call is not None)
        found: list[tuple[TraceTree, str]] = []
        stack: list[tuple[TraceTree, str | None, str | None]] = [(self, within_matching_subtree, None)]
        while stack:
            node, matched, agent = stack.pop()
            if within_reward is not None and node.is_reward_span():
                continue
            own = node.agent_name()
            if own is not None:
                agent = own
                if agent_match is not None and re.search(agent_match, own):
                    matched = own
            if id(node) in calls and (agent_match is None or matched is not None):
                found.append((node, matched if agent_match is not None and matched else agent or matched or ANY_AGENT))
            stack.extend((child, matched, agent) for child in reversed(node.children))
        found.sort(key=lambda item: item[0].order)
        return (
            found if existing_llm_call_response_ids is None else each_answer_once(found, existing_llm_call_response_ids)
        )

    def _calls(self, pattern: str, *, innermost: bool) -> set[int]:
        """Return the ``id()`` of the nodes that are calls."""
        nodes = self.traverse()
        if pattern != DEFAULT_LLM_CALL_MATCH:
            matching = {id(node) for node in nodes if re.search(pattern, node.span.name)}
            return _without_outer(nodes, matching) if innermost else matching
        if not innermost:
            return {id(node) for node in nodes if node.facts.kind == "llm"}
        parents = {id(child): node.id for node in nodes for child in node.children}
        # One trace: the tree is what it is after repair, and the view must not look for parents by trace.
        rows = [_row(node, parents.get(id(node)), trace_id="") for node in nodes]
        counted = {
            view_node.row.span_id
            for view_node in build(rows).walk()
            if view_node.counted and view_node.row is not None and view_node.row.facts.kind == "llm"
        }
        return {id(node) for node in nodes if node.id in counted}

    def witnesses(self, calls: Sequence[TraceTree]) -> dict[str, list[Span]]:
        """Return for each of *calls*, by the id of its span, all spans that recorded it, its own first.

        See ``view.witness``.
        """
        found = witnesses(self.traverse(), calls, _sight)
        return {call.id: [node.span for node in nodes] for call, nodes in zip(calls, found, strict=True)}

    def contains(self, other: TraceTree) -> bool:
        """Whether this span lasted from before *other* began until after it ended."""
        if self.end_ns is None or other.end_ns is None:
            return False
        return self.start_ns <= other.start_ns and other.end_ns <= self.end_ns

    def repair_hierarchy(self) -> None:
        """Put spans that lost their parent under the span whose time contains them.

        Spans of several libraries often share no context, so that a call lies beside its agent and not below it. What
        is moved: roots of an attempt with several, and model calls directly below the only root. Each goes below the
        innermost span that contains it in time. Where two unrelated spans contain it (agents that ran side by side),
        nobody can tell whose it is, and it stays.
        """
        has_virtual_root = self.span.name == VIRTUAL_ROOT
        movable = [node for node in self.children if has_virtual_root or node.facts.kind == "llm"]
        if len(self.children) < 2:  # noqa: PLR2004 - a single child has nothing that could contain it but its own
            return
        for node, parent in homes(self, movable):
            self.children.remove(node)
            parent.children.append(node)
            parent.children.sort(key=lambda child: child.order)

    @property
    def target(self) -> str:
        """Id of the span that this reward says it is about, empty for one that is about what came before it."""
        about = self.span.attributes.get(TARGET) if self.is_reward_span() else None
        return about if isinstance(about, str) else ""

    def match_rewards(self, reward_match: str, llm_calls: list[TraceTree]) -> dict[str, float | None]:
        """Return the reward of each call that has one, by the id of its span.

        A reward that says which span it is about is that call's, whatever the policy is and however late it came.

        Args:
            reward_match: A ``RewardMatchPolicy`` or its value.
            llm_calls: The calls that may get a reward.

        Raises:
            ValueError: *reward_match* is no policy.
        """
        policy = RewardMatchPolicy(reward_match)
        calls = {id(call) for call in llm_calls}
        if policy is RewardMatchPolicy.FIRST_OCCURRENCE:
            families: Iterable[Sequence[TraceTree]] = [self.traverse()]
        else:
            families = [node.children for node in self.traverse()]
        rewards: dict[str, float | None] = {}
        model_calls = {node.id for node in self.traverse() if node.facts.kind == "llm"}
        for node in self.traverse():
            if node.target in model_calls and node.facts.reward is not None:
                rewards.setdefault(node.target, node.facts.reward)
        for family in families:
            left = [node for node in family if node.target not in model_calls]
            _match(sorted(left, key=lambda node: node.order), calls, rewards)
        return rewards

    def span_to_triplet(self, span: Span, agent_name: str) -> Triplet:
        """Return the call that *span* recorded as a triplet without a reward."""
        from agentlightning.adapter.triplet import triplet  # noqa: PLC0415 - it needs this module

        return triplet([span], agent_name)

    def to_trajectory(
        self,
        llm_call_match: str = DEFAULT_LLM_CALL_MATCH,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,  # noqa: FBT001, FBT002 - signature of the API sheet
        dedup_llm_call: bool = True,  # noqa: FBT001, FBT002
        reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
        final_reward: float | None = None,
        _skip_empty_token_spans: bool = False,  # noqa: FBT001, FBT002
    ) -> list[Triplet]:
        """Return the calls of this tree as triplets, in the order in which they started.

        Args:
            llm_call_match: See ``find_llm_calls``.
            agent_match: See ``find_llm_calls``.
            exclude_llm_call_in_reward: Leave out what a reward function called.
            dedup_llm_call: Count a call once that several libraries recorded.
            reward_match: Which call a reward belongs to.
            final_reward: Reward of the last triplet, in place of its own.
            _skip_empty_token_spans: Leave out calls whose token ids are not known.
        """
        calls = self.find_llm_calls(
            llm_call_match=llm_call_match,
            agent_match=agent_match,
            within_reward=False if exclude_llm_call_in_reward else None,
            within_llm_call=False if dedup_llm_call else None,
            existing_llm_call_response_ids=set() if dedup_llm_call else None,
        )
        rewards = self.match_rewards(reward_match, [call for call, _ in calls])
        from agentlightning.adapter.triplet import triplet  # noqa: PLC0415 - it needs this module

        witnesses = self.witnesses([call for call, _ in calls])
        triplets: list[Triplet] = []
        for call, agent in calls:
            made = triplet(witnesses[call.id], agent)
            if _skip_empty_token_spans and not (made.prompt["token_ids"] and made.response["token_ids"]):
                continue
            triplets.append(made.model_copy(update={"reward": rewards.get(call.id)}))
        if final_reward is not None and triplets:
            triplets[-1] = triplets[-1].model_copy(update={"reward": final_reward})
        return triplets


def _sight(node: TraceTree) -> Sight:
    return Sight(node.facts, node.start_ns, node.end_ns)


def _ns(exact: int | None, seconds: float | None) -> int | None:
    if exact is not None:
        return exact
    return None if seconds is None else round(seconds * 1e9)


def _row(node: TraceTree, parent_id: str | None, trace_id: str | None = None) -> SpanRow:
    span = node.span
    return SpanRow(
        trace_id=span.trace_id if trace_id is None else trace_id,
        span_id=span.span_id,
        parent_id=parent_id,
        rollout_id=span.rollout_id,
        attempt_id=span.attempt_id,
        sequence_id=span.sequence_id,
        name=span.name,
        start_ns=node.start_ns,
        end_ns=node.end_ns,
        status_code=span.status.status_code,
        status_description=span.status.description,
        process=span.process,
        facts=node.facts,
    )


def _without_outer(nodes: list[TraceTree], matching: set[int]) -> set[int]:
    """Return those of *matching* that have none of *matching* below them; *nodes* are parents first."""
    above: set[int] = set()
    holds: set[int] = set()
    for node in reversed(nodes):
        if any(id(child) in holds for child in node.children):
            above.add(id(node))
            holds.add(id(node))
        if id(node) in matching:
            holds.add(id(node))
    return matching - above


def each_answer_once(found: list[tuple[TraceTree, str]], known: set[str]) -> list[tuple[TraceTree, str]]:
    """Keep one call for each answer that is not *known*: the first that has its tokens, else the first."""
    from agentlightning.view.tokens import token_ids  # noqa: PLC0415 - only where an id comes twice

    best: dict[str, TraceTree] = {}
    for node, _ in found:
        answer = node.facts.response_id
        if answer and answer not in known:
            before = best.setdefault(answer, node)
            if before is not node and not token_ids(before.span.attributes) and token_ids(node.span.attributes):
                best[answer] = node
    chosen = {id(node) for node in best.values()}
    known.update(best)
    return [item for item in found if not item[0].facts.response_id or id(item[0]) in chosen]


def _match(ordered: list[TraceTree], calls: set[int], rewards: dict[str, float | None]) -> None:
    """Give each reward in *ordered* to the last call before it that had ended and has none."""
    before: list[TraceTree] = []
    for node in ordered:
        if id(node) in calls:
            before.append(node)
        if not node.is_reward_span() or node.facts.reward is None:
            continue
        for call in reversed(before):
            if call.end_ns is None or call.end_ns > node.start_ns:
                continue  # the reward came while the call still ran: it is about an earlier one
            rewards.setdefault(call.id, node.facts.reward)
            break
