"""The loss of held-out examples, of each source and of all.

Owns the measurement and its names. Refuses to own when it is taken (stages/loop.py). Invariant:
every number is an exact mean over all trained tokens of a source, or of all sources, whatever was
in one call or on one rank.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlpost.algorithms.diagnostics import Tally, merge
from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.data.example import Example
from rlpost.stages.fit import Measures
from rlpost.stages.supervised.batch import ExamplePacker

TOKENS_PER_CALL = 2**18  # so much is sent to the ranks at a time


@dataclass(frozen=True, kw_only=True)
class HeldoutLoss:
    """Measures ``<stage>/heldout_loss``, ``.._perplexity`` and ``.._token_accuracy``.

    The loss is the negative log-likelihood in nats per token whatever is trained with, and the
    perplexity its exponential. Names end in ``/<source>``; those of all sources have no ending.
    """

    stage: str
    policy: Measures
    packer: ExamplePacker
    sources: Mapping[str, Sequence[Example]]
    progress: Callable[[str], None]  # is told what was done

    async def __call__(self) -> dict[str, float]:
        """Measure the weights of this moment."""
        tallies: dict[str, Tally] = {}
        objective = LikelihoodObjective(metrics=self.stage)
        for name, examples in self.sources.items():
            parts = []
            for some in _in_parts(examples):
                parts.append(await self.policy.measure(self.packer(some), objective))
                self.progress(f"held-out loss of {len(some)} examples of {name}")
            tallies[f"/{name}"] = merge(parts)
        found: dict[str, float] = {}
        for ending, tally in {**tallies, "": merge(tallies.values())}.items():
            found |= self._metrics(tally.metrics(), ending)
        return found

    def _metrics(self, measured: Mapping[str, float], ending: str) -> dict[str, float]:
        loss = measured[f"{self.stage}/nll"]
        values = (loss, math.exp(min(loss, 700.0)), measured[f"{self.stage}/token_accuracy"])
        return dict(zip(_names(self.stage, ending), values, strict=True))


def measured_names(stage: str, sources: Iterable[str]) -> list[str]:
    """Return the names of all that is measured on these sources; of none, nothing."""
    endings = [f"/{source}" for source in sources]
    if endings:
        endings.append("")
    return [name for ending in endings for name in _names(stage, ending)]


def _names(stage: str, ending: str) -> list[str]:
    return [f"{stage}/heldout_{what}{ending}" for what in ("loss", "perplexity", "token_accuracy")]


def _in_parts(examples: Sequence[Example]) -> Iterator[list[Example]]:
    part: list[Example] = []
    size = 0
    for each in examples:
        if part and size + len(each) > TOKENS_PER_CALL:
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each)
    if part:
        yield part
