"""What a user's function returned -> one score per response.

Owns the forms that a list of rewards may have. Refuses to judge a single number
(boundary.py). Invariant: a list of another length is an error, never cut or filled.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlpost.verifiers.base import Score


def rewards_of(returned: Any, *, num: int, what: str = "the function") -> list[Any]:
    """Return ``num`` rewards out of a list, tuple, iterator, array or tensor of them.

    An array may have the shape (n,) or (n, 1).

    Raises:
        TypeError: it is none of these.
        ValueError: it has another length.
    """
    plain = _plain(returned)
    if isinstance(plain, Iterator):
        plain = list(plain)
    if not isinstance(plain, Sequence) or isinstance(plain, str | bytes | bytearray):
        raise TypeError(f"{what} must return a list of rewards, got {type(returned).__name__}")
    if len(plain) != num:
        raise ValueError(
            f"{what} must return one reward per completion: got {len(plain)} for {num}"
        )
    return [_alone(each) for each in plain]


def scored(reward: Any, info: Mapping[Any, Any]) -> Score:
    """Return a reward with information about it; a key ``reward`` becomes ``info.reward``."""
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
