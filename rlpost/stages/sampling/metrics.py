"""The numbers of one step's samples, under their public names (docs: conventions).

Owns names and definitions. Pure functions; a metric without data is left out, never 0.
"""

from collections import Counter
from collections.abc import Sequence

from rlpost.rollout.producer import STALE, Batch
from rlpost.types import Group
from rlpost.verifiers.metrics import verdict_metrics


def spread(prefix: str, values: Sequence[float]) -> dict[str, float]:
    """Return mean, max and min of ``values``; of none, nothing."""
    if not values:
        return {}
    return {
        f"{prefix}/mean": sum(values) / len(values),
        f"{prefix}/max": max(values),
        f"{prefix}/min": min(values),
    }


def rollout(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, lengths, versions and verifier figures of the groups that were answered."""
    groups = [group for group in groups if group.episodes]
    if not groups:
        return {}
    episodes = [episode for group in groups for episode in group.episodes]
    rewards = [e.reward for e in episodes if e.reward is not None]
    lengths = [float(e.num_sampled) for e in episodes]
    metrics = spread("critic/score", rewards) | spread("response_length", lengths)
    metrics["response_length/clip_ratio"] = sum(e.truncated for e in episodes) / len(episodes)
    interrupted = sum(e.interrupted for e in episodes)
    if interrupted:
        metrics["response_length/interrupted_ratio"] = interrupted / len(episodes)
    metrics["prompt_length/mean"] = sum(len(g.prompt.token_ids) for g in groups) / len(groups)
    versions = sum(len(e.versions) for e in episodes)
    metrics["training/off_policy/trajectory_spans/mean"] = versions / len(episodes)
    metrics["rollout/tokens"] = sum(lengths)
    metrics["rollout/num_tokens"] = float(
        sum(len(t.prompt_ids) + len(t.response_ids) for e in episodes for t in e.trajectories)
    )
    return metrics | verdict_metrics(groups)


def off_policy(batch: Batch) -> dict[str, float]:
    """``training/off_policy/*``: how old the groups are, and what was dropped on the way.

    ``staleness/<k>`` is the share of groups with a lag of k steps. ``drop_rate/q1`` to ``q4``
    are the shares dropped as too old by quartile of sampled tokens, over the groups that
    ended in this step: dropping is biased against long responses.
    """
    prefix = "training/off_policy"
    stale = [each for each in batch.dropped if each.reason == STALE]
    metrics = {f"{prefix}/evicted_samples": float(len(stale))}
    for reason, count in Counter(each.reason for each in batch.dropped).items():
        metrics[f"rollout/dropped/{reason}"] = float(count)
    if batch.lags:
        metrics |= {
            f"{prefix}/trajectory_staleness/mean": sum(batch.lags) / len(batch.lags),
            f"{prefix}/trajectory_staleness/max": float(max(batch.lags)),
        }
        for lag, count in Counter(batch.lags).items():
            metrics[f"{prefix}/staleness/{lag}"] = count / len(batch.lags)
    if stale:
        ended = [(each.mean_tokens, True) for each in stale]
        ended += [(_mean_tokens(group), False) for group in batch.groups]
        ended.sort()
        for quartile in range(4):
            part = ended[len(ended) * quartile // 4 : len(ended) * (quartile + 1) // 4]
            if part:
                share = sum(was_dropped for _, was_dropped in part) / len(part)
                metrics[f"{prefix}/drop_rate/q{quartile + 1}"] = share
    return metrics


def _mean_tokens(group: Group) -> float:
    return sum(episode.num_sampled for episode in group.episodes) / max(1, len(group.episodes))
