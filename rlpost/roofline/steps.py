"""How long one step of reinforcement learning takes: its parts, and which of them overlap.

Owns the sum. Example::

    StepTime(generation_s=100, scoring_s=20, training_s=70, push_s=5, overlaps=True).total_s  # 105
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of each part of a step."""

    generation_s: float
    training_s: float
    scoring_s: float = 0.0  # reference, critic, log-probs before the update
    push_s: float = 0.0
    switching_s: float = 0.0  # models that share devices leave memory for each other
    overlaps: bool = False  # responses are generated while earlier ones are trained on

    @property
    def learning_s(self) -> float:
        return self.scoring_s + self.training_s

    @property
    def total_s(self) -> float:
        """Engines wait while they load new weights, so that a push overlaps with nothing."""
        if self.overlaps:
            return max(self.generation_s, self.learning_s) + self.push_s + self.switching_s
        return self.generation_s + self.learning_s + self.push_s + self.switching_s

    @property
    def hidden_s(self) -> float:
        """What overlapping saves: the shorter side."""
        return min(self.generation_s, self.learning_s) if self.overlaps else 0.0
