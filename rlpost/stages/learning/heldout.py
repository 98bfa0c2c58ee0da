"""Means over the trained tokens of held-out examples, of each source and of all.

Owns the measurement. Refuses to own what is measured (a stage's objective and its names) and when
(stages/loop.py). Invariant: every number is made of exact means over all trained tokens of a
source, or of all sources, whatever was in one call or on one rank.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlpost.algorithms.diagnostics import Tally, merge
from rlpost.algorithms.loss import Objective
from rlpost.data.example import Example
from rlpost.stages.fit import Measures
from rlpost.stages.learning.parts import TOKENS_PER_CALL, in_parts
from rlpost.training.packing.pack import Packed


@dataclass(frozen=True, kw_only=True)
class HeldoutMeans:
    """Measures ``<stage>/heldout_<name>`` for each name that ``numbers`` returns.

    Names end in ``/<source>``; those of all sources have no ending. ``numbers`` is given the means
    of the objective's diagnostics.
    """

    stage: str
    policy: Measures
    objective: Objective
    numbers: Callable[[Mapping[str, float]], Mapping[str, float]]
    packer: Callable[[Sequence[Example]], Packed]
    sources: Mapping[str, Sequence[Example]]
    progress: Callable[[str], None]  # is told what was done
    tokens_per_call: int = TOKENS_PER_CALL

    async def __call__(self) -> dict[str, float]:
        """Measure the weights of this moment."""
        tallies: dict[str, Tally] = {}
        for name, examples in self.sources.items():
            parts = []
            for some in in_parts(examples, tokens_per_call=self.tokens_per_call):
                parts.append(await self.policy.measure(self.packer(some), self.objective))
                self.progress(f"held-out loss of {len(some)} examples of {name}")
            tallies[f"/{name}"] = merge(parts)
        return {
            f"{self.stage}/heldout_{what}{ending}": value
            for ending, tally in {**tallies, "": merge(tallies.values())}.items()
            for what, value in self.numbers(tally.metrics()).items()
        }


def heldout_names(stage: str, sources: Iterable[str], *, numbers: Sequence[str]) -> list[str]:
    """Return the names of all that is measured on these sources; of none, nothing."""
    endings = [f"/{source}" for source in sources]
    if endings:
        endings.append("")
    return [f"{stage}/heldout_{what}{ending}" for ending in endings for what in numbers]
