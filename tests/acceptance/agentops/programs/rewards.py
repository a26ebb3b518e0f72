"""``@reward`` where the client is initialised: here, in a spawned and in a forked child; and a function that fails."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import asyncio
import multiprocessing

import agentops

from agentlightning import reward


@reward
def judge(value: float) -> float:
    """Return a reward."""
    return value


@reward
async def judge_later(value: float) -> dict:
    """Return a reward in the form of the SDK."""
    return {"type": "reward", "value": value}


@reward
def failing() -> float:
    """Fail."""
    msg = "no"
    raise ValueError(msg)


def child(value: float) -> None:
    """Judge in another process."""
    assert judge(value) == value


if __name__ == "__main__":
    judge(0.125)  # before the client is there: ours
    agentops.init(api_key="11111111-1111-4111-8111-111111111111", auto_start_session=False)
    assert judge(0.5) == 0.5
    assert asyncio.run(judge_later(0.25)) == {"type": "reward", "value": 0.25}
    try:
        failing()
    except ValueError as error:
        assert str(error) == "no"  # noqa: PT017 - no pytest here
    for method, value in (("spawn", 1.0), ("fork", 2.0)):
        process = multiprocessing.get_context(method).Process(target=child, args=(value,))
        process.start()
        process.join()
        assert process.exitcode == 0
