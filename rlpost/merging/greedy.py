"""The greedy soup: which models' mean is best by an evaluation.

Owns the choice. Refuses to own how a mean is made and scored.

Source: https://arxiv.org/abs/2203.05482, recipe 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SoupTrial:
    """One scored mean. Example: ``SoupTrial(models=("b", "a"), score=0.71, kept=True)``"""

    models: tuple[str, ...]
    score: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class GreedySoup:
    """What was chosen, and every trial in its order."""

    kept: tuple[str, ...]
    score: float
    trials: tuple[SoupTrial, ...]


def greedy_soup(models: Sequence[str], score: Callable[[tuple[str, ...]], float]) -> GreedySoup:
    """Add one model after the other, the best first, and keep it if the score does not fall.

    Args:
        models: at least one; of equal scores the first named comes first.
        score: of the mean of some models, higher is better; called once for each trial.
    """
    alone = {model: score((model,)) for model in models}
    order = sorted(models, key=lambda model: -alone[model])
    kept, best = (order[0],), alone[order[0]]
    trials = [
        SoupTrial(models=(model,), score=alone[model], kept=model == order[0]) for model in models
    ]
    for model in order[1:]:
        together = (*kept, model)
        found = score(together)
        better = found >= best
        trials.append(SoupTrial(models=together, score=found, kept=better))
        if better:
            kept, best = together, found
    return GreedySoup(kept=kept, score=best, trials=tuple(trials))
