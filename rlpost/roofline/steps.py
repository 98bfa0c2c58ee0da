"""How long one step of a stage takes: its parts, and which of them overlap; and the whole run.

Owns the sums. Refuses to own evaluations and checkpoints between steps, which are not counted.
Example::

    StepTime(generation_s=100, scoring_s=20, training_s=70, push_s=5, overlaps=True).total_s  # 105
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of each part of a step."""

    generation_s: float = 0.0
    training_s: float = 0.0
    scoring_s: float = 0.0  # reference, critic, log-probs before the update
    push_s: float = 0.0
    switching_s: float = 0.0  # models that share devices leave memory for each other
    overlaps: bool = False  # responses are generated while earlier ones are trained on
    first_s: float = 0.0  # of the run, before its first step
    steps: int = 1  # of the run
    of: str = "a step"  # what these seconds are of

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
    def run_s(self) -> float:
        return self.first_s + self.steps * self.total_s

    @property
    def hidden_s(self) -> float:
        """What overlapping saves: the shorter side."""
        return min(self.generation_s, self.learning_s) if self.overlaps else 0.0
