"""From what went wrong to a better prompt: what the reflection model is shown, and which answers are taken."""

from __future__ import annotations

import json
import logging
import string
from typing import TYPE_CHECKING

from agentlightning.algorithm.apo_rollout import cut
from agentlightning.errors import AgentLightningError, MissingExtraError
from agentlightning.types.resources import LLM, PromptTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentlightning.algorithm.apo_rollout import Candidate, Trial
    from agentlightning.types.resources import NamedResources

log = logging.getLogger("agentlightning.algorithm")

MOST_ERRORS_IN_A_ROW = 3
"""The reflection model is not asked any more when it has raised so often in a row."""
_TRIES = 2

PROMPT = """An assistant gets the prompt below for each task. Its holes, in braces, are filled with values of the task.

The prompt:
```
<curr_param>
```

What happened with some tasks: what the assistant was given, what it answered, and how that was rewarded.
```
<side_info>
```

Write a better prompt. Find out what the tasks have in common and where the answers went wrong, and say in the prompt
what the assistant needs to know and do; be general, other tasks of this kind will follow. Keep every hole exactly as it
is, and add no other: <holes>

Answer with the new prompt between ``` and ```."""


class ReflectionError(AgentLightningError):
    """The reflection model raised again and again; the last error is the cause."""


def holes(template: PromptTemplate) -> frozenset[str] | None:
    """Return the names that *template* wants values for, None where its engine does not say.

    Raises:
        ValueError: It is no template of its engine.
    """
    if template.engine == "f-string":
        fields = [field for _, field, _, _ in string.Formatter().parse(template.template) if field is not None]
        if any(not field or field[0].isdigit() for field in fields):
            msg = "a hole has no name; double the braces of text: {{ }}"
            raise ValueError(msg)
        return frozenset(field.partition(".")[0].partition("[")[0] for field in fields)
    if template.engine != "jinja":
        return None
    from jinja2 import TemplateError, meta  # noqa: PLC0415 - only for such templates
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415

    try:
        return frozenset(meta.find_undeclared_variables(SandboxedEnvironment().parse(template.template)))
    except TemplateError as error:
        msg = f"it is no Jinja template: {error}"
        raise ValueError(msg) from None


def problem_with(old: PromptTemplate, text: str) -> str:
    """Return what keeps *text* from taking the place of *old*, empty when nothing does."""
    if not text.strip():
        return "it is empty"
    if text == old.template:
        return "it is the prompt that was there"
    try:
        wanted, found = holes(old), holes(PromptTemplate(template=text, engine=old.engine))
    except ValueError as error:
        return str(error)
    if wanted == found:
        return ""
    missing = sorted((wanted or frozenset()) - (found or frozenset()))
    added = sorted((found or frozenset()) - (wanted or frozenset()))
    return "; ".join(
        f"{what} {', '.join(names)}" for what, names in (("it lacks", missing), ("nothing fills", added)) if names
    )


def record(trial: Trial) -> dict[str, object]:
    """Return what the reflection model is shown of one rollout."""
    task = trial.case.task
    shown = task if isinstance(task, str) else json.dumps(task, ensure_ascii=False, default=str)
    reward = f"reward {trial.reward:g}" if trial.reward is not None else f"no reward, counts as {trial.score:g}"
    status = "" if trial.status == "succeeded" else f"the run {trial.status}; "
    return {
        "Task": cut(shown),
        "Conversation": trial.conversation or "(no model call was recorded)",
        "Feedback": "\n".join([status + reward, *trial.notes]),
    }


class Proposer:
    """Asks the reflection model for prompts; what gepa calls a custom proposer. Used by one thread."""

    def __init__(self, model: Callable[[str], str], resources: NamedResources) -> None:
        """Ask *model* for prompts in place of those in *resources*."""
        self.refused_count = 0
        self.error_count = 0
        self.fatal: AgentLightningError | None = None
        """Set when the model is not asked any more."""
        self._model = model
        self._resources = resources
        self._errors_in_row = 0

    def __call__(
        self,
        candidate: Candidate,
        reflective_dataset: Mapping[str, Sequence[Mapping[str, object]]],
        components_to_update: list[str],
    ) -> Candidate:
        """Return the new templates by name; a prompt for which none came is left out."""
        made: Candidate = {}
        for name in components_to_update:
            text = self._propose(name, candidate[name], reflective_dataset[name])
            if text is not None:
                made[name] = text
        return made

    def _propose(self, name: str, text: str, records: Sequence[Mapping[str, object]]) -> str | None:
        from gepa.strategies.instruction_proposal import InstructionProposalSignature as Form  # noqa: PLC0415 - optional

        resource = self._resources[name]
        old = PromptTemplate(template=text, engine=resource.engine if isinstance(resource, PromptTemplate) else "jinja")
        names = sorted(holes(old) or ())
        asked = {
            "current_instruction_doc": text,
            "dataset_with_feedback": records,
            "prompt_template": PROMPT.replace("<holes>", ", ".join(names) or "there are none"),
        }
        prompt = str(Form.prompt_renderer(asked))
        remark = ""
        for _ in range(_TRIES):
            answer = self._ask(prompt + remark)
            if answer is None:
                return None
            new = Form.output_extractor(answer)["new_instruction"]
            problem = problem_with(old, new)
            if not problem:
                return new
            self.refused_count += 1
            log.info("a proposal for the prompt %s (%d characters) is refused: %s", name, len(new), problem)
            remark = f"\n\nAn answer before this one could not be used: {problem}."
        return None

    def _ask(self, prompt: str) -> str | None:
        try:
            answer = _text(self._model(prompt))
        except MissingExtraError as error:  # no later call can do better
            self.fatal = error
            return None
        except Exception as error:  # noqa: BLE001 - the user's model: one failure must not lose what was found so far
            self.error_count += 1
            self._errors_in_row += 1
            log.warning("the reflection model failed, %d times in a row: %s", self._errors_in_row, type(error).__name__)
            if self._errors_in_row >= MOST_ERRORS_IN_A_ROW:
                msg = f"the reflection model failed {self._errors_in_row} times in a row, at last with {error!r:.200}"
                self.fatal = ReflectionError(msg)
                self.fatal.__cause__ = error
            return None
        self._errors_in_row = 0
        return answer


def _text(answer: object) -> str:
    if not isinstance(answer, str):
        msg = f"the reflection model has to answer with a text, not {type(answer).__qualname__}"
        raise TypeError(msg)
    return answer


def asked_of(model: LLM | Callable[[str], str]) -> Callable[[str], str]:
    """Return *model* as a function from a prompt to its answer."""
    return model.generate if isinstance(model, LLM) else model
