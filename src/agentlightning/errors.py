"""Every error that Agent Lightning raises.

::

    AgentLightningError
     ├── SettingError            (ValueError)   a setting has a wrong name, type or value, or comes too late
     ├── MissingExtraError       (ImportError)  an optional package is not installed
     ├── ServerStartError                       a server cannot start: its address is taken or forbidden, or it fails
     └── StoreError
          ├── StoreUnavailableError             the store cannot be opened, reached or written now
          │    └── StoreFullError               the disk or the quota is full
          ├── StoreCorruptError                 the file is no store, or is damaged
          ├── StoreVersionError                 the store was written by a newer release
          ├── UnknownIdError     (ValueError)   no such rollout, attempt, span or resources
          ├── TransitionError    (ValueError)   a status cannot follow the one that is there
          │    └── StaleAttemptError            a later attempt has taken over
          ├── QueryTimeoutError                 a query took longer than a server allows
          └── AccessError                       the server wants another token, or refuses the request

Every message is one sentence that says what to do. Capture never raises any of them into a traced program.
"""


class AgentLightningError(Exception):
    """Base of every error of this package."""


class SettingError(AgentLightningError, ValueError):
    """A setting has an unknown name, a wrong type, a value out of range, or is changed too late."""


class MissingExtraError(AgentLightningError, ImportError):
    """An optional package is needed; the message holds the command that installs it."""

    def __init__(self, extra: str, feature: str, remedy: str | None = None) -> None:
        """Say that *feature* needs the optional dependencies called *extra*, or what to do where none would help."""
        message = f"{feature} needs an optional package: pip install 'agentlightning[{extra}]'"
        super().__init__(f"{feature} is not part of this release: {remedy}" if remedy else message)
        self.extra = extra


class ServerStartError(AgentLightningError):
    """A server cannot start: its port is taken or forbidden, its address is none of this machine, or it fails."""


class StoreError(AgentLightningError):
    """A store could not do what was asked; base of the errors below."""


class StoreUnavailableError(StoreError):
    """The store cannot be opened, reached or written now; the same call may work later."""


class StoreFullError(StoreUnavailableError):
    """The disk or the quota under the store is full; free some space and call again."""


class StoreCorruptError(StoreError):
    """The file is not a store or is damaged; nothing was changed in it."""


class StoreVersionError(StoreError):
    """The store was written by a newer release; it was left untouched."""


class UnknownIdError(StoreError, ValueError):
    """No rollout, attempt, span or resources of this id is in the store."""


class TransitionError(StoreError, ValueError):
    """The new status of a rollout or attempt cannot follow the one it has; nothing was changed."""


class StaleAttemptError(TransitionError):
    """A later attempt of the rollout exists, so this one no longer decides anything; stop working on it."""


class QueryTimeoutError(StoreError):
    """A query took longer than the server allows; ask for less at once."""


class AccessError(StoreError):
    """The server refused: no token, a wrong or expired one, or one without the needed scope."""
