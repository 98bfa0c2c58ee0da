"""The curves that every stage with a loop has: time, throughput, memory and cost.

Invariant: runs record every metric here.
"""

from rlpost.tracking.curves.panel import CurveSection, Panel, timings

_SCORES = r"val-core/(.+)/acc/mean@\d+"  # by evaluation/scores.py

SCORES = Panel(
    title="Held-out accuracy",
    unit="accuracy",
    help="Share of held-out prompts, or of a suite's items, that the model's answers solve.",
    pattern=_SCORES,
    range01=True,
    wide=True,
    graded=Panel(
        title="Held-out reward",
        unit="mean reward",
        help="Mean reward of answers to held-out prompts, or to a suite's items.",
        pattern=_SCORES,
        wide=True,
    ),
)

COST = CurveSection(
    title="What did it cost?",
    help="Added up over all processes of the run; what a crash took away counts, too.",
    panels=(
        Panel(
            title="Device time",
            unit="seconds x devices",
            help="GPUs, or cores on CPU, times wall time; what a crash took away again is lost.",
            curves={
                "cost/gpu_s": "GPUs",
                "cost/core_s": "cores",
                "cost/lost/gpu_s": "GPUs, lost",
                "cost/lost/core_s": "cores, lost",
            },
        ),
        Panel(
            title="Tokens",
            unit="tokens",
            help="Read as prompts, sampled and trained on, in all steps together.",
            pattern=r"cost/tokens/(.+)",
        ),
    ),
)

TIME = CurveSection(
    title="Where does the time go?",
    help="Wall time of a step by its parts, and what comes out of it.",
    panels=(
        Panel(
            title="Where the time goes",
            unit="seconds per step",
            help="Wall time of each part of a step.",
            curves=timings(
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
                "save_checkpoint",
                gen="generate",
                adv="advantages",
                update_actor="update",
                testing="evaluate",
            ),
            stacked=True,
            wide=True,
        ),
        Panel(
            title="Waiting",
            unit="seconds per step",
            help="Time in which the trainer waits for a batch, or generators for work.",
            curves=timings("wait_batch", "generators_idle"),
        ),
        Panel(
            title="Throughput",
            unit="tokens per second",
            help="Tokens of prompts and responses per second of a whole step.",
            curves={"perf/throughput": "tokens/s"},
        ),
        Panel(
            title="Epoch",
            unit="passes over the data",
            help="How often the training data was read.",
            curves={"training/epoch": "epoch"},
        ),
        Panel(
            title="Weight pushes",
            unit="seconds",
            help="Time from trainer to generators.",
            curves={"weights/push_s": "push"},
        ),
        Panel(
            title="Driver",
            unit="share of a step",
            help="What the driver itself takes.",
            curves={"perf/driver_overhead": "driver"},
        ),
        Panel(
            title="Memory of the driver's host",
            unit="GB",
            help="In use by all processes.",
            curves={"perf/cpu_memory_used_gb": "in use"},
        ),
    ),
)
