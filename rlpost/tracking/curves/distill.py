"""The curves of distillation.

Owns which metrics are shown, in which order and under which words. Invariant: the names are those
that ``stages/distill/`` and ``algorithms/distill/`` record.
"""

from rlpost.tracking.curves.every_stage import SCORES
from rlpost.tracking.curves.panel import CurveSection, Panel
from rlpost.tracking.curves.supervised import update_panels

LEARNING = CurveSection(
    title="Does the student come nearer to its teacher?",
    help="The held-out divergence is the number a run is for; 0 is the teacher itself.",
    panels=(
        Panel(
            title="Held-out divergence from the teacher",
            unit="nats per token",
            help="Mean divergence of held-out data, by source: the number this run is for.",
            pattern=r"distill/heldout_loss(?:/(.+))?",
            wide=True,
        ),
        SCORES,
        Panel(
            title="Agreement with the teacher",
            unit="share",
            help="Of the tokens at which both find the same token most likely.",
            pattern=r"distill/(?:heldout_)?agreement(?:/(.+))?",
            range01=True,
        ),
        *update_panels("distill", unit="nats per token"),
        Panel(
            title="Entropy of the student",
            unit="nats per token",
            help="How undecided the student is; a reverse KL narrows it.",
            curves={"distill/entropy": "student"},
        ),
    ),
)
