"""The trainer: one object that brings agent, algorithm, runners and store together."""

from agentlightning._internal.lazy import lazy_names

TYPE_CHECKING = False  # as type checkers read it; ``typing`` takes longer than all of this

if TYPE_CHECKING:
    from agentlightning.trainer.trainer import Trainer

__all__ = ["Trainer"]

__getattr__, __dir__ = lazy_names(__name__, {"Trainer": "agentlightning.trainer.trainer"})
