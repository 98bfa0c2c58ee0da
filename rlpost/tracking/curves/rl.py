"""The curves of stages that learn from rewards: ``rl`` and ``rft``.

Owns which metrics are shown, in which order and under which words. Invariant: runs record every
metric here.
"""

from rlpost.tracking.curves.every_stage import SCORES
from rlpost.tracking.curves.panel import CurveSection, Panel

SAMPLED_REWARD = Panel(
    title="Training reward",
    unit="mean reward",
    help="Mean reward of the responses sampled for each step, and after shaping and KL.",
    curves={"critic/score/mean": "reward", "critic/rewards/mean": "after shaping"},
)

LEARNING = CurveSection(
    title="Does it learn?",
    help="The held-out result is the number a run is for; the reward is what it trains on.",
    panels=(
        SCORES,
        SAMPLED_REWARD,
        Panel(
            title="Reward components",
            unit="mean reward",
            help="Each verifier and reward model by itself, before its weight.",
            pattern=r"verifier/(.+)/mean",
            min_curves=2,
        ),
        Panel(
            title="Held-out reward components",
            unit="mean reward",
            help="Each verifier by itself on held-out prompts, before its weight.",
            pattern=r"val-aux/(.+)/mean@\d+",
            min_curves=2,
        ),
        Panel(
            title="Response length",
            unit="tokens",
            help="Mean response length; the band runs from the shortest to the longest.",
            curves={"response_length/mean": "mean length"},
            band=("response_length/min", "response_length/max"),
        ),
        Panel(
            title="Groups that teach",
            unit="share of groups",
            help="Groups whose samples all pass or all fail carry no gradient.",
            curves={
                "group/all_pass_frac": "all pass",
                "group/all_fail_frac": "all fail",
                "group/zero_std_frac": "equal rewards",
            },
            range01=True,
        ),
    ),
)

SOUNDNESS = CurveSection(
    title="Is the update sound?",
    help="Sampler and trainer must agree; the policy must not run away or stop exploring.",
    panels=(
        Panel(
            title="Entropy",
            unit="nats per token",
            help="How undecided the policy is; a fall to 0 means it stopped exploring.",
            curves={"actor/entropy": "entropy"},
        ),
        Panel(
            title="Distance of policies",
            unit="nats per token",
            help="Sampler against trainer (mismatch), and the policy against its anchors.",
            curves={
                "rollout_corr/kl": "sampler vs trainer",
                "rollout_corr/k3_kl": "sampler vs trainer, k3",
                "actor/ppo_kl": "update",
                "actor/kl_loss": "reference",
            },
        ),
        Panel(
            title="Probabilities of sampler and trainer",
            unit="|difference|",
            help="How far the sampled tokens' probabilities lie apart.",
            curves={
                "training/rollout_probs_diff_mean": "mean",
                "training/rollout_probs_diff_max": "largest",
            },
        ),
        Panel(
            title="Gradient norm",
            unit="norm before clipping",
            help="Spikes show unstable updates.",
            curves={"actor/grad_norm": "policy", "critic/grad_norm": "critic"},
        ),
        Panel(
            title="Loss",
            unit="loss",
            help="Losses that were minimised.",
            curves={"actor/pg_loss": "policy gradient", "critic/vf_loss": "value"},
        ),
        Panel(
            title="Clipping and truncation",
            unit="share",
            help="Tokens whose ratio was clipped, and responses cut at the length limit.",
            curves={
                "actor/pg_clipfrac": "clipped tokens",
                "response_length/clip_ratio": "truncated responses",
            },
        ),
        Panel(
            title="Weight probe",
            unit="mean |log-prob difference|",
            help="Generator against trainer on a fixed batch after every push.",
            curves={"weights/probe_logprob_diff_mean": "difference"},
            log_scale=True,
        ),
        Panel(
            title="Merged adapter",
            unit="share of its change",
            help="What rounding takes of an adapter that generators get merged: at 1, all of it.",
            curves={"weights/merge_error": "lost"},
        ),
    ),
)

STALENESS = CurveSection(
    title="How old is the data?",
    help="Steps between the weights that sampled and the weights that trained.",
    panels=(
        Panel(
            title="Staleness",
            unit="share of groups",
            help="How many steps old the weights were that sampled the groups of each step.",
            pattern=r"training/off_policy/staleness/(\d+)",
            label="lag",
            stacked=True,
            range01=True,
        ),
        Panel(
            title="Staleness of trajectories",
            unit="steps",
            help="Mean and largest lag of what a step trains on.",
            curves={
                "training/off_policy/trajectory_staleness/mean": "mean",
                "training/off_policy/trajectory_staleness/max": "largest",
            },
        ),
        Panel(
            title="Samples dropped as too old",
            unit="samples",
            help="What was sampled and not trained on.",
            curves={"training/off_policy/evicted_samples": "samples"},
        ),
        Panel(
            title="Drop rate by length",
            unit="share",
            help="By quarter of response length: dropping is biased against long responses.",
            pattern=r"training/off_policy/drop_rate/(q[1-4])",
        ),
    ),
)

VERIFIERS = CurveSection(
    title="Do the verifiers work?",
    help="What could not be judged is left out and never counted as 0.",
    panels=(
        Panel(
            title="Verifier failures",
            unit="share of responses",
            help="Responses that could not be judged; they are left out, never counted as 0.",
            pattern=r"verifier/(.+/(?:error|timeout)_rate)",
        ),
        Panel(
            title="Verifier latency",
            unit="seconds",
            help="Mean time of a verdict.",
            pattern=r"verifier/(.+)/latency_s",
        ),
    ),
)
