"""The one place where whatever foreign code does becomes data.

Owns the translation of a judge's return value or exception into a reply that fits through a
pipe. Refuses to decide what a failure means. Invariant: a reply has a finite reward or an
error text, is plain JSON, and is smaller than ``wire.MAX_REPLY_BYTES``.
"""

import math
import numbers
import traceback
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from rlpost.errors import UserError
from rlpost.verifiers.base import ABSTAINED, DeclaredJudge, GroupCall, Judge, Sample, Score

MAX_TEXT = 500  # characters of an error or of one piece of information
MAX_ITEMS = 20  # pieces of information
T = TypeVar("T")


def attempt(call: Callable[[], T]) -> tuple[T | None, str | None]:
    """Return ``(result, None)`` or ``(None, summary of what was raised)``.

    ``SystemExit`` and ``KeyboardInterrupt`` are caught too: they are raised by the foreign
    code, and the worker that calls it must not end for them.
    """
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001  (the boundary)
        return None, summary(error)


def summary(error: BaseException) -> str:
    """Return ``"ValueError: message (rewards.py:12)"``: kind, message and last line run.

    An exception may be foreign code too, so that describing it can raise anything.
    """
    try:
        return _text(_description(error), 2 * MAX_TEXT)
    except BaseException:  # noqa: BLE001  (the boundary)
        return "an exception that cannot be described"


def _description(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    if isinstance(error, UserError):  # names its own address
        text = text.removeprefix(f"{type(error).__module__}.")
        return text[:MAX_TEXT]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return text[:MAX_TEXT] + where


def answer_of(judge: Judge, samples: Sequence[Sample]) -> dict[str, Any]:
    """Judge the samples of one request.

    Returns:
        ``replies``, one per sample; or ``failure``, when one call for several samples failed
        and nobody can tell for which.
    """
    together = _group_call(judge)
    if together is None or len(samples) == 1:
        return {"replies": [reply_of(judge, sample) for sample in samples]}
    scores, failure = attempt(lambda: list(together(samples)))
    if scores is None:
        return {"failure": failure}
    assert len(scores) == len(samples)
    return {"replies": [_reply_for(score) for score in scores]}


def _group_call(judge: Judge) -> GroupCall | None:
    if isinstance(judge, DeclaredJudge) and judge.declaration.groups:
        return judge.together
    return None


def _reply_for(score: Score | Exception) -> dict[str, Any]:
    if isinstance(score, Exception):
        return failed_reply(summary(score))
    reply, error = attempt(lambda: _checked(score))
    return failed_reply(error) if reply is None else reply


def reply_of(judge: Judge, sample: Sample) -> dict[str, Any]:
    """Judge one sample; return ``reward``, ``error`` (one of them None) and ``info``."""
    reply, error = attempt(lambda: _checked(judge(sample)))
    return failed_reply(error) if reply is None else reply


def failed_reply(error: str | None) -> dict[str, Any]:
    """Return the reply of a verifier that could not judge."""
    return {"reward": None, "error": error, "info": {}}


def _checked(score: Any) -> dict[str, Any]:
    info: dict[str, Any] = {}
    if isinstance(score, dict):
        if "reward" not in score:
            raise TypeError(f"the verifier returned a dict without 'reward': {list(score)!r:.200}")
        info = {
            _text(_shown(str, key)): _plain(value)
            for key, value in list(score.items())[:MAX_ITEMS]
            if key != "reward"
        }
        score = score["reward"]
    if score is None:
        return {"reward": None, "error": ABSTAINED, "info": info}
    if hasattr(score, "item"):  # numpy or torch scalar
        score = score.item()
    if not isinstance(score, numbers.Real | Decimal):
        raise TypeError(f"the verifier returned {type(score).__name__}, not a number")
    reward = float(score)
    if not math.isfinite(reward):
        raise ValueError(f"the verifier returned {reward}, which is no reward")
    return {"reward": reward, "error": None, "info": info}


def _plain(value: Any) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    return _text(value if isinstance(value, str) else _shown(repr, value))


def _shown(show: Callable[[Any], str], value: Any) -> str:
    """Information that cannot be shown, such as an endless nesting, costs no reward."""
    text, _ = attempt(lambda: show(value))
    return text if text is not None else f"({type(value).__name__} that cannot be shown)"


def _text(text: str, max_length: int = MAX_TEXT) -> str:
    # Half of a surrogate pair can be written to no file. A subclass may override methods.
    return str.encode(text, errors="replace").decode()[:max_length]
