"""The scores of one model on one data set, or on a part of it.

Owns which numbers there are and their names in metrics. Refuses to own their arithmetic
(metrics.py, intervals.py) and comparisons. Invariants: a response without a reward is no wrong
response: it is left out of means, counted by itself, and widens intervals; a number that was not
measured is absent.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rlpost.evaluation.intervals import Clusters, MeanEstimate, estimate_mean
from rlpost.evaluation.metrics import best_at_k, maj_at_k, pass_at_k

_RIGHT = object()  # the vote of every response that was judged right


@dataclass(frozen=True, kw_only=True)
class SampleOutcome:
    """What one response counts for."""

    reward: float | None  # None: not known
    failed: bool = False  # a verifier failed, or nothing was generated
    truncated: bool = False
    vote: str | None = None  # what it says; None: nothing, or nobody can tell


UNANSWERED = SampleOutcome(reward=None, failed=True)

_SHARES = ("graded_frac", "error_rate", "truncated_frac")

Outcomes = Sequence[Sequence[SampleOutcome]]  # per item, its samples


@dataclass(frozen=True, kw_only=True)
class ScoreSheet:
    """Example: ``score(outcomes, samples=4, ks=[1, 4]).at["pass@4"].mean``"""

    samples: int  # asked for per item
    num_items: int
    mean: MeanEstimate | None  # of the rewards; None: nothing was judged
    at: dict[str, MeanEstimate] = field(default_factory=dict)  # "pass@4", "best@4", "maj@4"
    num_missing: int = 0  # responses without a reward
    error_rate: float = 0.0  # of these, the share of all that a failure caused
    truncated_frac: float = 0.0
    graded_frac: float = 0.0  # of the rewards: those other than 0 and 1

    def metrics(self, dataset: str, *, intervals: bool = True) -> dict[str, float]:
        """Return ``val-core/<dataset>/...`` by name.

        ``acc/mean@N`` is the mean reward over all judged responses; ``graded_frac`` is the share
        of rewards other than 0 and 1: with any, the mean is no accuracy.
        """
        metrics = {f"val-core/{dataset}/missing": float(self.num_missing)}
        if self.mean is None:
            return metrics
        metrics[f"val-core/{dataset}/acc/mean@{self.samples}"] = self.mean.mean
        metrics[f"val-core/{dataset}/graded_frac"] = self.graded_frac
        if not intervals:
            return metrics
        for name, estimate in {f"mean@{self.samples}": self.mean, **self.at}.items():
            metrics[f"val-core/{dataset}/acc/{name}"] = estimate.mean
            if estimate.low is not None and estimate.high is not None:
                metrics[f"val-core/{dataset}/acc/{name}/low"] = estimate.low
                metrics[f"val-core/{dataset}/acc/{name}/high"] = estimate.high
        metrics[f"val-core/{dataset}/error_rate"] = self.error_rate
        metrics[f"val-core/{dataset}/truncated_frac"] = self.truncated_frac
        return metrics


def measured_names(dataset: str, *, samples: int) -> list[str]:
    """Return the names that a score without pass@k, maj@k and the like has, with its interval."""
    names = ("", "/low", "/high")
    return [
        *(f"val-core/{dataset}/acc/mean@{samples}{ending}" for ending in names),
        *(f"val-core/{dataset}/{name}" for name in ("missing", *_SHARES)),
    ]


def score(outcomes: Outcomes, *, samples: int, ks: Iterable[int] = ()) -> ScoreSheet:
    """Score one model.

    Args:
        outcomes: per item at most ``samples``; those that lack were not answered.
        samples: asked for per item.
        ks: of pass@k (best@k where rewards are graded) and of maj@k (where a verifier can tell
            what a response says), each at most ``samples``. For an item of which fewer rewards
            are known it is not known, and lies between 0 and 1.
    """
    full = [[*item, *[UNANSWERED] * (samples - len(item))] for item in outcomes]
    every = [outcome for item in full for outcome in item]
    rewards = [outcome.reward for outcome in every if outcome.reward is not None]
    graded = sum(reward not in (0.0, 1.0) for reward in rewards)
    at: dict[str, MeanEstimate] = {}
    for k in ks if rewards else ():
        if graded:
            _add(at, "best", full, k, _best)
            continue
        _add(at, "pass", full, k, _passed)
        if any(outcome.vote is not None for outcome in every):
            _add(at, "maj", full, k, _won)
    return ScoreSheet(
        samples=samples,
        num_items=len(full),
        mean=estimate_mean([[outcome.reward for outcome in item] for item in full]),
        at=at,
        num_missing=len(every) - len(rewards),
        error_rate=sum(each.reward is None and each.failed for each in every) / max(1, len(every)),
        truncated_frac=sum(each.truncated for each in every) / max(1, len(every)),
        graded_frac=graded / max(1, len(rewards)),
    )


_Worth = Callable[[Sequence[SampleOutcome], int], float]


def _add(at: dict[str, MeanEstimate], name: str, outcomes: Outcomes, k: int, worth: _Worth) -> None:
    known = [[each for each in item if each.reward is not None] for item in outcomes]
    values: Clusters = [[worth(item, k) if len(item) >= k else None] for item in known]
    estimate = estimate_mean(values)
    if estimate is not None:
        at[f"{name}@{k}"] = estimate


def _best(known: Sequence[SampleOutcome], k: int) -> float:
    return best_at_k([each.reward for each in known if each.reward is not None], k)


def _passed(known: Sequence[SampleOutcome], k: int) -> float:
    return pass_at_k(len(known), sum(each.reward == 1.0 for each in known), k)


def _won(known: Sequence[SampleOutcome], k: int) -> float:
    """Right responses vote for the same answer, whatever they call it."""
    return maj_at_k([_RIGHT if each.reward == 1.0 else each.vote for each in known], _RIGHT, k)
