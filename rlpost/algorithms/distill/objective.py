"""What one optimizer step of distillation minimises: the divergence from the teacher.

Owns what is measured of it. Refuses to own the divergence (divergence.py), masks and denominators
(reduce.py).

Legend: R compared tokens of one micro-batch.
"""

from dataclasses import dataclass

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.loss import Loss, LossBatch, Outputs


@dataclass(frozen=True, kw_only=True)
class DistillObjective:
    """The divergence of student and teacher, which the head computes, at every compared token.

    ``metrics`` is the prefix of what it reports, each a mean over the compared tokens:
    ``divergence``, ``agreement`` (the share at which both find the same token most likely), and of
    the student ``nll`` of the tokens that are there, ``token_accuracy`` and ``entropy``.

    Example: ``DistillObjective()``
    """

    metrics: str = "distill"

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``loss.Objective``."""
        return ("weight_R",)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch."""
        assert outputs.divergence_R is not None, "the head compares with no teacher"
        measured = {
            f"{self.metrics}/divergence": outputs.divergence_R,
            f"{self.metrics}/agreement": outputs.agrees_R,
            f"{self.metrics}/nll": -outputs.scores_R,
            f"{self.metrics}/token_accuracy": outputs.is_top_R,
            f"{self.metrics}/entropy": outputs.entropy_R,
        }
        means = {name: each.detach() for name, each in measured.items() if each is not None}
        return Loss(values_R=outputs.divergence_R, diagnostics_R=Diagnostics(means=means))
