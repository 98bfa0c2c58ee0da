"""The panels of our W&B dashboard, as plain data.

Owns sections, panels and their metrics. Refuses to own W&B's objects (workspace.py).
Invariant: runs record every metric here; a pattern matches names that contain a dataset, a
verifier or a number.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One line plot over ``training/global_step``; ``metrics`` or a ``pattern`` (RE2), not both."""

    title: str
    metrics: tuple[str, ...] = ()
    pattern: str | None = None
    stacked: bool = False
    log_scale: bool = False

    def __post_init__(self) -> None:
        assert bool(self.metrics) != bool(self.pattern), self.title


@dataclass(frozen=True, kw_only=True)
class PanelSection:
    """Panels that answer the question in ``title``; ``help`` explains them."""

    title: str
    help: str
    panels: tuple[Panel, ...]


def _timing(*names: str) -> tuple[str, ...]:
    return tuple(f"timing_s/{name}" for name in names)


SECTIONS = (
    PanelSection(
        title="Does it learn?",
        help="The held-out result is the number a run is for; the reward is what it trains on.",
        panels=(
            Panel(title="Held-out accuracy or reward", pattern=r"^val-core/.+/acc/mean@[0-9]+$"),
            Panel(title="Reward", metrics=("critic/score/mean", "critic/rewards/mean")),
            Panel(
                title="Response length",
                metrics=("response_length/mean", "response_length/max"),
            ),
            Panel(title="Truncated responses", metrics=("response_length/clip_ratio",)),
            Panel(
                title="Groups without a gradient",
                metrics=("group/all_pass_frac", "group/all_fail_frac", "group/zero_std_frac"),
            ),
        ),
    ),
    PanelSection(
        title="Is the update sound?",
        help="Sampler and trainer must agree; the policy must not run away or stop exploring.",
        panels=(
            Panel(
                title="KL of sampler and trainer (mismatch)",
                metrics=("rollout_corr/kl", "rollout_corr/k3_kl"),
            ),
            Panel(
                title="Difference of probabilities, sampler and trainer",
                metrics=(
                    "training/rollout_probs_diff_mean",
                    "training/rollout_probs_diff_max",
                ),
            ),
            Panel(title="KL to the anchors", metrics=("actor/ppo_kl", "actor/kl_loss")),
            Panel(title="Entropy", metrics=("actor/entropy",)),
            Panel(title="Clipped tokens", metrics=("actor/pg_clipfrac",)),
            Panel(title="Gradient norm", metrics=("actor/grad_norm", "critic/grad_norm")),
            Panel(
                title="Probe after a push",
                metrics=("weights/probe_logprob_diff_mean",),
                log_scale=True,
            ),
        ),
    ),
    PanelSection(
        title="How old is the data?",
        help="Steps between the weights that sampled and the weights that trained.",
        panels=(
            Panel(
                title="Staleness of trajectories",
                metrics=(
                    "training/off_policy/trajectory_staleness/mean",
                    "training/off_policy/trajectory_staleness/max",
                ),
            ),
            Panel(
                title="Share of groups by lag", pattern=r"^training/off_policy/staleness/[0-9]+$"
            ),
            Panel(
                title="Samples dropped as too old",
                metrics=("training/off_policy/evicted_samples",),
            ),
            Panel(title="Drop rate by length", pattern=r"^training/off_policy/drop_rate/q[1-4]$"),
        ),
    ),
    PanelSection(
        title="Where does the time go?",
        help="Wall time of a step by its parts, and what comes out of it.",
        panels=(
            Panel(
                title="Seconds per step",
                metrics=_timing(
                    "gen",
                    "reward",
                    "ref",
                    "old_log_prob",
                    "values",
                    "adv",
                    "update_critic",
                    "update_actor",
                    "update_weights",
                    "offload",
                    "testing",
                ),
                stacked=True,
            ),
            Panel(title="Waiting, seconds", metrics=_timing("wait_batch", "generators_idle")),
            Panel(title="Tokens per second", metrics=("perf/throughput",)),
            Panel(title="Weight push, seconds", metrics=("weights/push_s",)),
            Panel(title="Driver's own share of a step", metrics=("perf/driver_overhead",)),
            Panel(title="Memory of the driver's host, GB", metrics=("perf/cpu_memory_used_gb",)),
        ),
    ),
    PanelSection(
        title="Do the verifiers work?",
        help="What could not be judged is left out and never counted as 0.",
        panels=(
            Panel(title="Errors and timeouts", pattern=r"^verifier/.+/(error|timeout)_rate$"),
            Panel(title="Latency, seconds", pattern=r"^verifier/.+/latency_s$"),
            Panel(title="Mean verdict", pattern=r"^verifier/.+/mean$"),
        ),
    ),
)
