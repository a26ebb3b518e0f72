"""What happens when telemetry fails: it is counted and logged, and the agent never notices.

Only ``Exception`` is swallowed; KeyboardInterrupt and SystemExit belong to the program.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from ai_agents.telemetry.log import logger
from ai_agents.telemetry.types import TelemetrySession

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from types import TracebackType

    F = TypeVar("F", bound=Callable[..., object])

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")

PERSISTENT_STORAGE = "persistent_storage"
"""Component that is disabled after repeated storage errors: sessions stay in memory."""


class ErrorSummary(dict[str, Any]):
    """A summary of errors whose length is the number of errors; true also when there are none."""

    def __len__(self) -> int:
        """Return how many errors there were."""
        return int(self.get("total_errors", 0))

    def __bool__(self) -> bool:
        """Return True: ``json.dumps`` writes a false dict as an empty one."""
        return True


class TelemetryErrorHandler:
    """Counts errors and switches off what fails again and again. Thread-safe."""

    def __init__(self) -> None:
        """Begin with no errors."""
        self._lock = threading.RLock()
        self._error_counts: dict[str, int] = {}
        self._disabled_components: set[str] = set()
        self._corrupted_files: set[str] = set()
        self._max_errors_per_component = 10

    def handle_storage_error(self, error: BaseException, operation: str = "storage") -> None:
        """Count a storage error; the tenth of one operation disables ``persistent_storage``."""
        if self._count(f"storage_{operation}", error) >= self._max_errors_per_component:
            self.disable_component(PERSISTENT_STORAGE)

    def handle_instrumentation_error(self, error: BaseException | str, component: str = "instrumentation") -> None:
        """Count an instrumentation error and disable *component* at once."""
        self._count(f"instrumentation_{component}", error)
        self.disable_component(component)

    def handle_data_corruption(self, file_path: str | Path, error: BaseException) -> Path | None:
        """Mark a file as corrupted and move it out of the way; return where it is now, None if it stayed."""
        path = Path(file_path)
        with self._lock:
            self._corrupted_files.add(str(file_path))
        self._count("storage_corruption", error)
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S")
        target = path.with_suffix(f".corrupted_{stamp}")
        try:
            if not path.exists():
                return None
            path.rename(target)
        except OSError as failure:
            log_telemetry_error(failure, "moving a corrupted file")
            return None
        return target

    def handle_serialization_error(self, error: BaseException, data_type: str = "data") -> None:
        """Count an error of turning *data_type* into JSON."""
        self._count(f"serialization_{data_type}", error)

    def handle_collection_error(self, error: BaseException, operation: str = "collection") -> None:
        """Count an error of collecting."""
        self._count(f"collection_{operation}", error)

    def disable_component(self, component: str) -> None:
        """Switch a component off until ``enable_component`` or ``reset_error_state``."""
        with self._lock:
            self._disabled_components.add(component)

    def enable_component(self, component: str) -> None:
        """Switch a component on again."""
        with self._lock:
            self._disabled_components.discard(component)

    def is_component_disabled(self, component: str) -> bool:
        """Tell whether a component was switched off."""
        return component in self._disabled_components

    def is_file_corrupted(self, file_path: str | Path) -> bool:
        """Tell whether a file was found corrupted."""
        return str(file_path) in self._corrupted_files

    def get_error_summary(self) -> ErrorSummary:
        """Return counts by place, disabled components and corrupted files; ``len`` of it is the number of errors."""
        with self._lock:
            return ErrorSummary(
                error_counts=dict(self._error_counts),
                disabled_components=sorted(self._disabled_components),
                corrupted_files=sorted(self._corrupted_files),
                total_errors=sum(self._error_counts.values()),
            )

    def reset_error_state(self) -> None:
        """Forget every error and switch everything on again."""
        with self._lock:
            self._error_counts.clear()
            self._disabled_components.clear()
            self._corrupted_files.clear()

    def _count(self, key: str, error: BaseException | str) -> int:
        with self._lock:
            number = self._error_counts[key] = self._error_counts.get(key, 0) + 1
        # The first one is told with its class only: a message may hold what a model or a tool said.
        level = logger.warning if number == 1 else logger.debug
        with contextlib.suppress(Exception):  # a broken logging handler of the program's
            level("telemetry error in %s: %s", key, type(error).__name__ if not isinstance(error, str) else "reported")
        return number


_error_handler: TelemetryErrorHandler | None = None
_making = threading.Lock()


def get_error_handler() -> TelemetryErrorHandler:
    """Return the one error handler of this process."""
    if _error_handler is None:
        with _making:
            if _error_handler is None:
                globals()["_error_handler"] = TelemetryErrorHandler()
    return cast("TelemetryErrorHandler", _error_handler)


class SafeOperation:
    """Block or decorator that swallows and counts errors: see ``safe_telemetry_operation``."""

    def __init__(self, name: str) -> None:
        """Prepare it; nothing is set up, so one object serves all threads."""
        self._name = name

    def __enter__(self) -> SafeOperation:  # noqa: PYI034 - there are no subclasses
        """Return this object."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        """Swallow an ``Exception`` after counting it."""
        if not isinstance(error, Exception):
            return False
        get_error_handler().handle_collection_error(error, self._name)
        return True

    def __call__(self, function: F) -> F:
        """Return *function* made safe: a plain one, coroutine, generator or asynchronous generator.

        After an error a function returns None, and a generator ends.
        """
        if inspect.isasyncgenfunction(function):
            wrapper: object = self._async_generator(function)
        elif inspect.iscoroutinefunction(function):
            wrapper = self._coroutine(function)
        elif inspect.isgeneratorfunction(function):
            wrapper = self._generator(function)
        else:
            wrapper = self._plain(function)
        return cast("F", wrapper)

    def _plain(self, function: Callable[P, T]) -> Callable[P, T | None]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | None:
            """Return what the function returns, None where it failed."""
            with self:
                return function(*args, **kwargs)
            return None

        return wrapper

    def _coroutine(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | None]]:
        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | None:
            """Return what the function returns when awaited, None where it failed."""
            with self:
                return await function(*args, **kwargs)
            return None

        return wrapper

    def _generator(self, function: Callable[P, Generator[T, object, D]]) -> Callable[P, Generator[T, object, D | None]]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Generator[T, object, D | None]:
            """Yield what the function yields; an error ends it, with None as its result."""
            with self:
                return (yield from function(*args, **kwargs))
            return None

        return wrapper

    def _async_generator(self, function: Callable[P, AsyncGenerator[T]]) -> Callable[P, AsyncGenerator[T]]:
        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T]:
            """Yield what the function yields; an error ends it."""
            with self:
                async with contextlib.aclosing(function(*args, **kwargs)) as items:
                    async for item in items:
                        yield item

        return wrapper


def safe_telemetry_operation(operation_name: str = "telemetry_operation") -> SafeOperation:
    """Return a context manager and decorator under which errors are counted and go no further."""
    return SafeOperation(operation_name)


def safe_telemetry_call(
    operation_name: str = "telemetry_call",
) -> Callable[[Callable[P, T]], Callable[P, T | None]]:
    """Return a decorator; a call that fails is counted and returns None."""
    return _decorator(lambda error, _: get_error_handler().handle_collection_error(error, operation_name))


def safe_storage_operation(operation_name: str = "storage") -> Callable[[Callable[P, T]], Callable[P, T | bool]]:
    """Return a decorator; a call that fails is counted as a storage error and returns False."""

    def failed(error: Exception, _: tuple[object, ...]) -> bool:
        """Count a storage error and return False."""
        get_error_handler().handle_storage_error(error, operation_name)
        return False

    return _decorator(failed)


def safe_instrumentation(
    component: str = "instrumentation",
) -> Callable[[Callable[P, T]], Callable[P, T | object]]:
    """Return a decorator; a call that fails disables *component* and returns its second argument, else its first."""

    def failed(error: Exception, args: tuple[object, ...]) -> object:
        """Disable the component and return the second argument, else the first, else None."""
        get_error_handler().handle_instrumentation_error(error, component)
        return args[1] if len(args) > 1 else args[0] if args else None

    return _decorator(failed)


def with_fallback_data(fallback_value: D) -> Callable[[Callable[P, T]], Callable[P, T | D]]:
    """Return a decorator; a call that fails or returns None returns *fallback_value* instead."""

    def failed(error: Exception, _: tuple[object, ...]) -> D:
        """Count a collection error and return the fallback."""
        get_error_handler().handle_collection_error(error, "fallback")
        return fallback_value

    def decorate(function: Callable[P, T]) -> Callable[P, T | D]:
        """Return *function* with the fallback in the place of errors and of None."""
        safe = _decorator(failed)(function)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | D:
            """Return what the function returns, the fallback for an error or None."""
            result = safe(*args, **kwargs)
            return fallback_value if result is None else result

        return wrapper

    return decorate


def log_telemetry_error(error: BaseException, context: str = "") -> None:
    """Log an error at WARNING with what was being done."""
    logger.warning("telemetry error while %s: %s: %s", context, type(error).__name__, error)


def ensure_safe_json_serialization(data: object) -> str:
    """Return JSON text of *data*; where that fails, of an object that says so."""
    try:
        return json.dumps(data, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        get_error_handler().handle_serialization_error(error, type(data).__name__)
        return json.dumps(
            {
                "error": "Serialization failed",
                "data_type": type(data).__name__,
                "timestamp": datetime.now(timezone.utc).isoformat(),
                "original_error": f"{type(error).__name__}: {error}",
            }
        )


def create_fallback_session(session_id: str) -> TelemetrySession:
    """Return an empty session, for readers that need one whatever happened."""
    return TelemetrySession(session_id, datetime.now(timezone.utc))


def _plain(value: object) -> object:
    """Return a record as plain data; anything else is for JSON to refuse."""
    to_dict: object = getattr(value, "to_dict", None)
    if callable(to_dict):
        return to_dict()
    if isinstance(value, (datetime, Path)):
        return str(value)
    msg = f"{type(value).__name__} is no JSON"
    raise TypeError(msg)


def _decorator(
    failed: Callable[[Exception, tuple[object, ...]], D],
) -> Callable[[Callable[P, T]], Callable[P, T | D]]:
    def decorate(function: Callable[P, T]) -> Callable[P, T | D]:
        """Return *function* with *failed* called for each ``Exception`` of its own."""

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | D:
            """Return what the function returns, or what *failed* returns in its place."""
            try:
                return function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - to swallow errors is what these decorators are for
                return failed(error, args)

        return wrapper

    return decorate
