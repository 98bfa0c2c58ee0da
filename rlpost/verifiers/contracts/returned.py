"""What a user's function returned -> one score per response.

Owns the forms that a list of rewards may have. Refuses to judge a single number
(workers/safe_call.py). Invariant: a list of another length is an error, never cut or filled.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlpost.verifiers.base import Score

_WAY_OUT = "; verifier.call=sample judges responses one by one"


def rewards_of(returned: Any, *, num: int) -> list[Any]:
    """Return ``num`` rewards out of a list, tuple, iterator, array or tensor of them.

    An array may have the shape (n,) or (n, 1). What is none of these, or has another length, is
    an error in the place of every reward: nobody can tell whose reward is missing.
    """
    plain = _plain(returned)
    if isinstance(plain, Iterator):
        plain = list(plain)
    way_out = _WAY_OUT if num > 1 else ""
    if not isinstance(plain, Sequence) or isinstance(plain, str | bytes | bytearray):
        kind = type(returned).__name__
        return [TypeError(f"the function must return a list of rewards, got {kind}{way_out}")] * num
    if len(plain) != num:
        return [
            ValueError(
                f"the function must return one reward per completion: got {len(plain)} for {num}"
                f"{way_out}"
            )
        ] * num
    return [_alone(each) for each in plain]


def scored(reward: Any, info: Mapping[Any, Any]) -> Score | Exception:
    """Return a reward with information about it; a key ``reward`` becomes ``info.reward``."""
    if isinstance(reward, Exception) or not info:
        alone: Score | Exception = reward
        return alone
    plain = {str(key): _plain(value) for key, value in info.items()}
    if "reward" in plain:
        plain["info.reward"] = plain.pop("reward")
    return {"reward": reward, **plain}


def per_response(value: Any, *, num: int) -> list[Any]:
    """Return a logged value for each response: the list's own, or the same for all."""
    plain = _plain(value)
    if isinstance(plain, list | tuple) and len(plain) == num:
        return [_alone(each) for each in plain]
    return [plain] * num


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value  # numpy, torch, pandas


def _alone(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
