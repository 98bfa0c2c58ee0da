"""The curves of reward models.

Owns which metrics are shown, in which order and under which words. Invariant: the names are those
that ``stages/reward/`` and ``algorithms/reward/`` record.
"""

from rlpost.tracking.curves.panel import CurveSection, Panel

JUDGING = CurveSection(
    title="Does the reward model judge rightly?",
    help="The held-out accuracy is the number a run is for; one half is chance for pairs.",
    panels=(
        Panel(
            title="Held-out accuracy of judgements",
            unit="share",
            help="Pairs in the right order, or steps judged as their label says, by source.",
            pattern=r"reward/heldout_(?:step_)?accuracy(?:/(.+))?",
            range01=True,
            wide=True,
        ),
        Panel(
            title="Held-out loss of reward",
            unit="nats per judgement",
            help="Mean loss of held-out pairs or steps, by source; log 2 knows nothing.",
            pattern=r"reward/heldout_loss(?:/(.+))?",
        ),
        Panel(
            title="Accuracy by confidence",
            unit="share",
            help="Of held-out judgements made with so many percent of confidence; a calibrated "
            "model is right as often as it is sure.",
            pattern=r"reward/heldout_reliability/(\d+-\d+)",
            range01=True,
        ),
        Panel(
            title="Calibration error",
            unit="share",
            help="Mean distance between confidence and accuracy (ECE), by source.",
            pattern=r"reward/heldout_calibration_error(?:/(.+))?",
        ),
        Panel(
            title="Score and length",
            unit="correlation",
            help="Of scores with lengths of responses, in training and held out, by source. What "
            "goes with length is gamed with length.",
            pattern=r"reward/(?:heldout_)?length_correlation(?:/(.+))?",
        ),
        Panel(
            title="Right steps in held-out data",
            unit="share",
            help="What a model would reach that calls every step right.",
            pattern=r"reward/heldout_right_steps(?:/(.+))?",
            range01=True,
        ),
    ),
)

SOUNDNESS = CurveSection(
    title="Is the reward model's training sound?",
    help="Of each step's batch, before its update.",
    panels=(
        Panel(
            title="Training loss of reward",
            unit="nats per judgement",
            help="Bradley-Terry with margin and centring, or cross-entropy of steps.",
            curves={"reward/loss": "loss"},
        ),
        Panel(
            title="Training accuracy",
            unit="share",
            help="Pairs in the right order, or steps judged as their label says.",
            curves={"reward/accuracy": "pairs", "reward/step_accuracy": "steps"},
            range01=True,
        ),
        Panel(
            title="Scores of pairs",
            unit="score",
            help="The margin counts; the level is free unless loss.centre holds it near 0.",
            curves={
                "reward/chosen": "chosen",
                "reward/rejected": "rejected",
                "reward/margin": "margin",
            },
        ),
        Panel(
            title="Gradient norm of reward",
            unit="norm before clipping",
            help="Spikes show unstable updates.",
            curves={"reward/grad_norm": "gradient"},
        ),
        Panel(
            title="Learning rate of reward",
            unit="learning rate",
            help="The schedule as it was applied.",
            curves={"reward/lr": "learning rate"},
        ),
    ),
)
