"""What a section of `gpu_check.py` is given and what it may say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Models:
    """Random models on disk. ``large`` is as small as ``small`` where only the code is tried."""

    small: str
    large: str
    tiny: bool
    repetitions: int
    scratch: Path


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A number, and the most or the least that it may be.

    Example: ``Finding(check="log-probs", value=1e-6, bound=1e-4)``
    """

    check: str
    value: float
    bound: float | None = None  # the most
    least: float | None = None
    unit: str = ""

    @property
    def passed(self) -> bool:  # false for NaN
        most = self.bound is None or self.value <= self.bound
        return most and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        checked = self.bound is not None or self.least is not None
        verdict = "     " if not checked else "ok   " if self.passed else "FAIL "
        bound = "" if self.bound is None else f" (at most {self.bound:.3g})"
        bound += "" if self.least is None else f" (at least {self.least:.3g})"
        return f"{verdict}{self.check}: {self.value:.4g}{self.unit}{bound}"


class CannotRun(Exception):
    """This machine lacks something that a section needs; the text says what."""


Section = Callable[[Models], Iterator[Finding]]
