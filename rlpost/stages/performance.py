"""What every stage measures of a step: its updates together, and where the time went.

Pure functions; a metric without data is left out, never 0.
"""

from collections.abc import Mapping, Sequence

import psutil

# Trainer against sampler: later updates of a step measure how far the policy moved instead.
_OF_THE_FIRST_UPDATE = (
    "training/rollout_probs_diff",
    "rollout_corr/kl",
    "rollout_corr/k3_kl",
    "rollout_corr/rollout_is",
)


def over_updates(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Combine the metrics of a step's updates: the mean, but of maxima the largest.

    ``perf/*_tokens`` add up; the mismatch of trainer and sampler is the first update's.
    """
    names = {name for update in updates for name in update}
    combined = {}
    for name in names:
        values = [update[name] for update in updates if name in update]
        if name.startswith(_OF_THE_FIRST_UPDATE):
            combined[name] = values[0]
        elif name.startswith("perf/") and name.endswith("_tokens"):
            combined[name] = sum(values)
        elif name.endswith(("/max", "_max", "/max_deviation")):
            combined[name] = max(values)
        else:
            combined[name] = sum(values) / len(values)
    return combined


def performance(metrics: Mapping[str, float], elapsed_s: float) -> dict[str, float]:
    """Throughput (tokens a second, prompts included) and the driver's own share of a step."""
    known = (
        "gen",
        "reward",
        "greedy",
        "ref",
        "old_log_prob",
        "values",
        "update_critic",
        "update_actor",
        "update_weights",
    )
    waited_s = sum(metrics.get(f"timing_s/{name}", 0.0) for name in known)
    num_tokens = metrics.get("rollout/num_tokens", metrics.get("perf/packed_tokens", 0.0))
    return {
        "timing_s/step": elapsed_s,
        "perf/time_per_step": elapsed_s,
        "perf/throughput": num_tokens / elapsed_s,
        "perf/driver_overhead": (elapsed_s - waited_s) / elapsed_s,
        "perf/cpu_memory_used_gb": psutil.virtual_memory().used / 1e9,
    }
