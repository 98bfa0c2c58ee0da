"""How the verifiers did in one batch, under their public metric names."""

from collections import Counter
from collections.abc import Sequence

from rlpost.types import Group, Verdict
from rlpost.verifiers.base import ABSTAINED, TIMEOUT


def verdict_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """``verifier/<name>/{mean,error_rate,timeout_rate,latency_s}`` over a batch's verdicts."""
    metrics = {f"verifier/{name}/mean": mean for name, mean in verdict_means(groups).items()}
    for name, verdicts in _by_name(groups).items():
        timeouts = sum(v.error == TIMEOUT for v in verdicts)
        failures = sum(v.reward is None and v.error != ABSTAINED for v in verdicts)
        metrics[f"verifier/{name}/error_rate"] = (failures - timeouts) / len(verdicts)
        metrics[f"verifier/{name}/timeout_rate"] = timeouts / len(verdicts)
        metrics[f"verifier/{name}/latency_s"] = sum(v.latency_s for v in verdicts) / len(verdicts)
    return metrics


def verdict_means(groups: Sequence[Group]) -> dict[str, float]:
    """Return each verifier's mean reward; one that judged nothing is left out."""
    rewards = {
        name: [v.reward for v in verdicts if v.reward is not None]
        for name, verdicts in _by_name(groups).items()
    }
    return {name: sum(values) / len(values) for name, values in rewards.items() if values}


def errors_of_unjudged(groups: Sequence[Group]) -> Counter[str]:
    """Count the responses that have no reward because a verdict failed, by the first error."""
    unjudged = (e for group in groups for e in group.episodes if e.reward is None)
    errors = ([v.error for v in e.verdicts if v.error not in (None, ABSTAINED)] for e in unjudged)
    return Counter(each[0] for each in errors if each and each[0])


def _by_name(groups: Sequence[Group]) -> dict[str, list[Verdict]]:
    by_name: dict[str, list[Verdict]] = {}
    for group in groups:
        for episode in group.episodes:
            for verdict in episode.verdicts:
                by_name.setdefault(verdict.verifier, []).append(verdict)
    return by_name
