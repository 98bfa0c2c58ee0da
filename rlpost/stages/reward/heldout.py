"""How well a reward model orders held-out pairs, or judges held-out steps.

Owns the measurement and its names. Refuses to own when it is taken (stages/loop.py), the arithmetic
of calibration (evaluation/calibration.py) and what is said of length (control/length_bias.py).
Invariant: every number is an exact mean over all rows of a source, or of all sources, whatever was
in one call or on one rank.

Names begin with ``reward/heldout_`` and end in ``/<source>``; those of all sources have no ending.

Legend: N judgements: pairs, or steps.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlpost.data.example import Example
from rlpost.evaluation.calibration import Calibration, Floats, calibration, correlation, probability
from rlpost.stages.reward.batch import PairPacker, StepPacker, response_tokens
from rlpost.training.packing.pack import ByItem, Packed

EXAMPLES_PER_CALL = 1024  # so many are sent to the ranks at a time; even, so no pair is split

_OF_BOTH = ("loss", "calibration_error")  # always; other names may be absent
_OF_PAIRS = ("accuracy", "margin", "longer_chosen")
_OF_STEPS = ("step_accuracy", "right_steps")


class GivesScores(Protocol):
    """The trained group, as far as it is asked here."""

    async def score(self, packed: Packed) -> list[list[np.ndarray]]:
        """Score every micro-batch's scored tokens."""


@dataclass(frozen=True, kw_only=True)
class HeldoutPairs:
    """Measures pairs.

    ``accuracy`` is the share of pairs whose chosen response scores higher (a tie counts one half),
    ``margin`` the mean difference of the scores, ``loss`` the mean of -log sigma(that difference),
    without what the training loss adds,
    ``calibration_error`` that of sigma(margin), ``length_correlation`` that of a response's score
    with its number of tokens, and ``longer_chosen`` the share of pairs whose chosen response is
    longer. ``reliability/<percent>`` is the accuracy of the pairs that sigma(margin) is so sure of.
    """

    model: GivesScores
    packer: PairPacker
    sources: Mapping[str, Sequence[Example]]
    progress: Callable[[str], None]  # is told what was done

    async def __call__(self) -> dict[str, float]:
        """Measure the weights of this moment."""
        scores = await _scored(self)
        found: dict[str, float] = {}
        for ending, names in _endings(self.sources).items():
            examples = [each for name in names for each in self.sources[name]]
            score_I = np.array([each[-1] for name in names for each in scores[name]], np.float64)
            found |= _named(self._measured(examples, score_I), ending)
        return found

    def _measured(self, examples: Sequence[Example], score_I: Floats) -> dict[str, float | None]:
        length_I = np.array([response_tokens(each) for each in examples], np.float64)
        ahead_N = score_I[::2] - score_I[1::2]
        longer_N = length_I[::2] - length_I[1::2]
        told = calibration(probability(ahead_N), np.ones(len(ahead_N), bool))
        return {
            "accuracy": _share_above(ahead_N),
            "loss": float(np.logaddexp(0, -ahead_N).mean()),
            "margin": float(ahead_N.mean()),
            "longer_chosen": _share_above(longer_N),
            "calibration_error": told.error,
            "length_correlation": correlation(score_I, length_I),
            **_reliability(told),
        }


@dataclass(frozen=True, kw_only=True)
class HeldoutSteps:
    """Measures steps.

    ``step_accuracy`` is the share of steps that are judged as their label says (right above one
    half), ``right_steps`` the share whose label is above one half, ``loss`` the mean binary
    cross-entropy, ``calibration_error`` that of the probabilities, and ``length_correlation`` that
    of the weakest step's probability with the number of steps. ``reliability/<percent>`` is the
    accuracy of the steps that the model is so sure of.
    """

    model: GivesScores
    packer: StepPacker
    sources: Mapping[str, Sequence[Example]]
    progress: Callable[[str], None]

    async def __call__(self) -> dict[str, float]:
        """Measure the weights of this moment."""
        scores = await _scored(self)
        found: dict[str, float] = {}
        for ending, names in _endings(self.sources).items():
            examples = [each for name in names for each in self.sources[name]]
            logits = [each for name in names for each in scores[name]]
            found |= _named(self._measured(examples, logits), ending)
        return found

    def _measured(
        self, examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[str, float | None]:
        logit_N = np.concatenate(logits).astype(np.float64)
        label_N = np.concatenate([each.labels for each in examples]).astype(np.float64)
        is_right_N = label_N > 0.5
        told = calibration(probability(logit_N), is_right_N)
        weakest = np.array([probability(each.astype(np.float64)).min() for each in logits])
        steps = np.array([len(each.labels) for each in examples], np.float64)
        cross_entropy_N = np.logaddexp(0, logit_N) - label_N * logit_N
        return {
            "step_accuracy": float(((logit_N > 0) == is_right_N).mean()),
            "right_steps": float(is_right_N.mean()),
            "loss": float(cross_entropy_N.mean()),
            "calibration_error": told.error,
            "length_correlation": correlation(weakest, steps),
            **_reliability(told),
        }


def measured_names(sources: Iterable[str], *, of_steps: bool) -> list[str]:
    """Return the names of what is measured on these sources; of none, nothing."""
    endings = [f"/{source}" for source in sources]
    if endings:
        endings.append("")
    names = (*(_OF_STEPS if of_steps else _OF_PAIRS), *_OF_BOTH)
    return [_name(name, ending) for ending in endings for name in names]


async def _scored(job: HeldoutPairs | HeldoutSteps) -> dict[str, list[np.ndarray]]:
    """Return the scores of each example by source, in their order."""
    found: dict[str, list[np.ndarray]] = {}
    for name, examples in job.sources.items():
        found[name] = []
        for start in range(0, len(examples), EXAMPLES_PER_CALL):
            some = examples[start : start + EXAMPLES_PER_CALL]
            packed = job.packer(some)
            scores: ByItem = packed.by_item(await job.model.score(packed))
            found[name] += [scores[number] for number in range(len(some))]
            job.progress(f"scores of {len(some)} held-out examples of {name}")
    return found


def _endings(sources: Iterable[str]) -> dict[str, list[str]]:
    names = list(sources)
    return {**{f"/{name}": [name] for name in names}, "": names}


def _named(values: Mapping[str, float | None], ending: str) -> dict[str, float]:
    return {_name(name, ending): value for name, value in values.items() if value is not None}


def _name(name: str, ending: str) -> str:
    return f"reward/heldout_{name}{ending}"


def _reliability(told: Calibration) -> dict[str, float]:
    return {f"reliability/{name}": value for name, value in told.accuracy_of_bin.items()}


def _share_above(values_N: Floats) -> float:
    return float(np.mean(np.where(values_N == 0, 0.5, values_N > 0)))
