"""Kinds of tasks and kinds of models, and which kind of model is for which task."""

from __future__ import annotations

from enum import Enum


class TaskType:
    """What an agent is used for; it decides which model it gets."""

    INTENT_CLASSIFICATION = "intent_classification"
    CLASSIFICATION = "classification"
    SUMMARIZATION = "summarization"
    CODE_GENERATION = "code_generation"
    CODE_REVIEW = "code_review"
    COMPLEX_REASONING = "complex_reasoning"


class ModelType(Enum):
    """Kind of a model; its value is the beginning of the environment variables that describe it."""

    FAST = "FAST"
    POWERFUL = "POWERFUL"
    SUMMARY = "SUMMARY"


TASK_TYPES = {name: value for name, value in vars(TaskType).items() if name.isupper()}
"""Values of ``TaskType`` by name."""

_MODELS = {
    TaskType.INTENT_CLASSIFICATION: ModelType.FAST,
    TaskType.CLASSIFICATION: ModelType.FAST,
    TaskType.SUMMARIZATION: ModelType.SUMMARY,
}


def model_type_for(task_type: str) -> ModelType:
    """Return the kind of model for a kind of task; a powerful one for what is not known."""
    return _MODELS.get(task_type, ModelType.POWERFUL)
