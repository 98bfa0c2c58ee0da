"""The curves of stages that learn from preferences.

Owns which metrics are shown, in which order and under which words. Invariant: the names are those
that ``algorithms/preference/`` and ``stages/preference/`` record.
"""

from rlpost.tracking.curves.panel import CurveSection, Panel
from rlpost.tracking.curves.supervised import update_panels

_LEARNS = CurveSection(
    title="Does it prefer what was chosen?",
    help="The held-out accuracy is the number a run is for; the margin shows how strongly.",
    panels=(
        Panel(
            title="Held-out accuracy of preferences",
            unit="share of pairs, or of judged completions",
            help="How often the chosen completion has the higher reward; a tie counts one half.",
            pattern=r"preference/heldout_accuracy(?:/(.+))?",
            range01=True,
            wide=True,
        ),
        Panel(
            title="Held-out margin of preferences",
            unit="reward",
            help="Reward of the chosen completion less that of the rejected one, by source.",
            pattern=r"preference/heldout_margin(?:/(.+))?",
        ),
        Panel(
            title="Held-out loss of preferences",
            unit="loss",
            help="The loss on held-out rows, by source; alone it rises where margins over-fit.",
            pattern=r"preference/heldout_loss(?:/(.+))?",
        ),
        Panel(
            title="Accuracy of preferences",
            unit="share of pairs, or of judged completions",
            help="On each step's batch, before its update.",
            curves={"rewards/accuracies": "accuracy"},
            range01=True,
        ),
        Panel(
            title="Rewards of preferences",
            unit="beta x log-ratio",
            help=(
                "Of chosen and rejected completions. Both may fall while the margin grows: the "
                "loss sees their difference alone. loss=rpo holds the chosen one up."
            ),
            curves={
                "rewards/chosen": "chosen",
                "rewards/rejected": "rejected",
                "rewards/margins": "margin",
            },
        ),
        Panel(
            title="Log-probs per token",
            unit="nats per token",
            help="Of chosen and rejected completions, so that their lengths do not matter.",
            curves={
                "logps/chosen_per_token": "chosen",
                "logps/rejected_per_token": "rejected",
            },
        ),
        *update_panels("preference", unit="loss"),
    ),
)
SECTIONS = (_LEARNS,)
