"""The curves of stages that learn from preferences.

Owns which metrics are shown, in which order and under which words. Invariant: the names are those
that ``algorithms/preference/`` and ``stages/preference/`` record.
"""

from rlpost.tracking.curves.every_stage import SCORES
from rlpost.tracking.curves.panel import CurveSection, Panel
from rlpost.tracking.curves.rl import SAMPLED_REWARD
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
        Panel(
            title="Likelihood of chosen completions",
            unit="nats per token",
            help="Their NLL, where the loss trains it; it should fall or stay.",
            curves={"preference/nll": "NLL"},
        ),
        Panel(
            title="Length of completions",
            unit="tokens",
            help="Where chosen ones are much longer, or shorter, length alone tells them apart.",
            curves={
                "preference/chosen_tokens": "chosen",
                "preference/rejected_tokens": "rejected",
            },
        ),
        Panel(
            title="Does the margin follow length?",
            unit="correlation",
            help=(
                "Of the margin of a pair with the difference in length, or of reward and length; "
                "over the rows of one step it is noisy. Near 1 or -1 length is what is learned."
            ),
            curves={"preference/length_correlation": "correlation"},
        ),
        Panel(
            title="Reference point",
            unit="nats",
            help="How far the policy has moved on completions of other prompts: z of KTO.",
            curves={"preference/kl": "z"},
        ),
        SCORES,
        SAMPLED_REWARD,
        Panel(
            title="Pairs of a step",
            unit="pairs",
            help="Groups whose best and worst response were compared; fewer: the rest were ties.",
            curves={"preference/pairs": "pairs"},
        ),
        *update_panels("preference", unit="loss"),
    ),
)
SECTIONS = (_LEARNS,)
