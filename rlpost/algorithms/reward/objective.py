"""What one optimizer step of a reward model minimises, from pairs or from steps.

Owns the way from scored tokens to pairs and what is measured. Refuses to own the losses
(losses.py), masks and denominators (reduce.py). Invariants: in a unit of a pair the first item is
chosen and the second rejected; a response has one scored token, its last, and its score is read at
that token.

Legend: R scored tokens of one micro-batch, I responses, U units.
"""

from dataclasses import dataclass, field

from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics, half_for_ties
from rlpost.algorithms.loss import Loss, LossBatch, Outputs
from rlpost.algorithms.reward.losses import (
    BradleyTerryConfig,
    ScoredPairs,
    ScoredSteps,
    StepConfig,
    bradley_terry,
    step,
)
from rlpost.algorithms.sequences import item_of_units


@dataclass(frozen=True, kw_only=True)
class RewardObjective:
    """Bradley-Terry over pairs.

    A batch carries ``weight_U`` (1 / pairs of the optimizer batch) and, with
    ``loss.margin_column``, ``margin_U``. A tie counts one half in ``reward/accuracy``. Where it
    carries ``chosen_tokens_U`` and ``rejected_tokens_U``, the correlation over pairs of the
    difference of scores with that of lengths is measured.

    Example: ``RewardObjective(loss=BradleyTerryConfig(centre=0.01))``
    """

    loss: BradleyTerryConfig = field(default_factory=BradleyTerryConfig)
    metrics: str = "reward"

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``loss.Objective``."""
        return ("weight_U",) if self.loss.margin_column is None else ("weight_U", "margin_U")

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch."""
        assert len(batch.item_R) == batch.num_items, "a response has one scored token"
        pairs = ScoredPairs(
            chosen_U=_of_units(outputs.scores_R, batch, place=0),
            rejected_U=_of_units(outputs.scores_R, batch, place=1),
            margin_U=None if self.loss.margin_column is None else batch.columns["margin_U"],
        )
        ahead_U = (pairs.chosen_U - pairs.rejected_U).detach()
        means = {
            f"{self.metrics}/chosen": pairs.chosen_U.detach(),
            f"{self.metrics}/rejected": pairs.rejected_U.detach(),
            f"{self.metrics}/margin": ahead_U,
            f"{self.metrics}/accuracy": half_for_ties(ahead_U),
        }
        measured = Diagnostics(means=means) | self._lengths(ahead_U, batch)
        return Loss(values_U=bradley_terry(pairs, self.loss), diagnostics_U=measured)

    def _lengths(self, ahead_U: Tensor, batch: LossBatch) -> Diagnostics:
        names = [f"{side}_tokens" for side in ("chosen", "rejected")]
        if not all(f"{name}_U" in batch.columns for name in names):
            return Diagnostics()
        chosen_U, rejected_U = (batch.columns[f"{name}_U"] for name in names)
        means = {f"{self.metrics}/{names[0]}": chosen_U, f"{self.metrics}/{names[1]}": rejected_U}
        both = (ahead_U, chosen_U - rejected_U)
        return Diagnostics(means=means, correlations={f"{self.metrics}/length_correlation": both})


@dataclass(frozen=True, kw_only=True)
class StepObjective:
    """Binary cross-entropy at the ends of steps.

    A batch carries ``weight_R`` (1 / steps of the optimizer batch) and ``labels_R``, in [0, 1].
    A step is called right where its logit is above 0, and is right where its label is above 0.5.

    Example: ``StepObjective()``
    """

    loss: StepConfig = field(default_factory=StepConfig)
    metrics: str = "reward"

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``loss.Objective``."""
        return ("weight_R", "labels_R")

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch."""
        logits_R, labels_R = outputs.scores_R, batch.masked("labels_R")
        right_R = (logits_R.detach() > 0) == (labels_R > 0.5)
        means = {f"{self.metrics}/step_accuracy": right_R}
        return Loss(
            values_R=step(ScoredSteps(logits_R=logits_R, labels_R=labels_R), self.loss),
            diagnostics_R=Diagnostics(means=means),
        )


def _of_units(scores_R: Tensor, batch: LossBatch, *, place: int) -> Tensor:
    """Return the score of each unit's item number ``place``; 0 in units that do not count."""
    counted_R = batch.counted_U[batch.unit_I[batch.item_R]]
    scores_I = scores_R.masked_fill(~counted_R, 0.0)
    return item_of_units(scores_I, unit_I=batch.unit_I, num_units=batch.num_units, place=place)
