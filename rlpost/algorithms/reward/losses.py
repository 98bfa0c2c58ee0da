"""What a pair or a step costs a reward model.

Owns each loss, its registry and its options. Refuses to own denominators (reduce.py), the score
head and where margins and labels come from. Invariant: one value per pair or per step and no
average, so the gradient cannot depend on how they were packed.

Legend: U pairs, R marked tokens (the ends of steps) of one micro-batch. Scores are logits.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from rlpost.bounds import number, option
from rlpost.registry import Registry

reward_losses = Registry("loss")


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """A reward model's scores of two responses to one prompt; tensors have shape (U,)."""

    chosen_U: Tensor  # carries the gradient, as does the other
    rejected_U: Tensor
    margin_U: Tensor | None = None  # by how much the chosen one is better; None: not known


@dataclass(frozen=True, kw_only=True)
class ScoredSteps:
    """A reward model's logits at the ends of steps; tensors have shape (R,)."""

    logits_R: Tensor  # carries the gradient
    labels_R: Tensor  # 0 to 1: the probability that the step is right


@dataclass(kw_only=True)
class BradleyTerryConfig:
    """Outcome reward model from pairs (Bradley-Terry), arXiv 2203.02155."""

    use: ClassVar[str] = "Pairs: one score for a whole response."
    watch: ClassVar[str] = (
        "`reward/accuracy` on held-out pairs, and whether scores go with length: RL then learns "
        "length."
    )

    kind: str = "bradley_terry"
    centre: float = number(
        0.0,
        at_least=0,
        at_most=1000,
        hint="0.01 keeps scores near 0; 0 leaves their level open",
        help="weight of (sum of both scores)^2, which keeps scores near 0",
    )
    margin_column: str | None = option(
        None, help="column with the margin by which the chosen response must win; null: none"
    )


@reward_losses.register("bradley_terry", BradleyTerryConfig)
def bradley_terry(x: ScoredPairs, config: BradleyTerryConfig) -> Tensor:
    """-log sigma(r_w - r_l - margin) + centre (r_w + r_l)^2.

    The margin is that of arXiv 2307.09288, the centring that of arXiv 2312.09244.
    """
    ahead_U = x.chosen_U - x.rejected_U
    if x.margin_U is not None:
        ahead_U = ahead_U - x.margin_U
    return -logsigmoid(ahead_U) + config.centre * (x.chosen_U + x.rejected_U).square()


@dataclass(kw_only=True)
class StepConfig:
    """Process reward model from judged steps, arXiv 2305.20050."""

    use: ClassVar[str] = "Stepwise rows: one score at the end of each step of a solution."
    watch: ClassVar[str] = (
        "`reward/step_accuracy` beside the share of right steps in the data: a model that calls "
        "everything right has that share."
    )

    kind: str = "step"


@reward_losses.register("step", StepConfig)
def step(x: ScoredSteps, config: StepConfig) -> Tensor:
    """-y log sigma(r) - (1 - y) log(1 - sigma(r)) at the end of each step, y in [0, 1]."""
    return binary_cross_entropy_with_logits(x.logits_R, x.labels_R, reduction="none")
