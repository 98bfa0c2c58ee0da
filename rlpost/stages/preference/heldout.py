"""Loss, accuracy and margin of held-out pairs or judged completions, of each source and of all.

Owns the measurement and its names. Refuses to own when it is taken (stages/loop.py). Invariants:
every number of a source is an exact mean over its units, whatever was in one call or on one rank;
those of all sources are means over their units.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlpost.algorithms.diagnostics import Tally, merge
from rlpost.algorithms.loss import Objective
from rlpost.data.example import Example
from rlpost.stages.fit import Measures
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.models import ModelColumns
from rlpost.stages.preference.reference import row_parts

# Metric of a training step -> the end of the held-out metric's name.
_JUDGED = {"preference/loss": "loss", "rewards/accuracies": "accuracy"}
_PAIRS = {**_JUDGED, "rewards/margins": "margin"}


@dataclass(frozen=True, kw_only=True)
class HeldoutPreferences:
    """Measures ``preference/heldout_loss``, ``.._accuracy`` and, of pairs, ``.._margin``.

    Names end in ``/<source>``; those of all sources have no ending.
    """

    policy: Measures
    objective: Objective
    packer: ResponsePacker
    models: ModelColumns
    sources: Mapping[str, Sequence[Sequence[Example]]]  # the examples of each row
    progress: Callable[[str], None]  # is told what was done

    async def __call__(self) -> dict[str, float]:
        """Measure the weights of this moment."""
        found: dict[str, float] = {}
        sums: dict[str, float] = {}
        units: dict[str, int] = {}
        for name, rows in self.sources.items():
            units[name] = self.packer.totals(_flat(rows)).units
            measured = (await self._tally(rows)).metrics()
            for metric, what in _names(self.packer.judged).items():
                found[f"preference/heldout_{what}/{name}"] = measured[metric]
                sums[what] = sums.get(what, 0.0) + units[name] * measured[metric]
            self.progress(f"held-out preferences of {len(rows)} rows of {name}")
        total = sum(units.values())
        return found | {f"preference/heldout_{what}": each / total for what, each in sums.items()}

    async def _tally(self, rows: Sequence[Sequence[Example]]) -> Tally:
        totals = self.packer.totals(_flat(rows))
        kl = await self.models.reference_point(_flat(rows))
        tallies = []
        for part in row_parts(rows):
            packed = self.packer(_flat(part), totals=totals)
            packed = await self.models.attach(packed, _flat(part), kl=kl)
            tallies.append(await self.policy.measure(packed, self.objective))
        return merge(tallies)


def measured_names(sources: Iterable[str], *, judged: bool) -> list[str]:
    """Return the names of all that is measured on these sources; of none, nothing."""
    endings = [f"/{source}" for source in sources]
    if endings:
        endings.append("")
    names = _names(judged).values()
    return [f"preference/heldout_{what}{ending}" for ending in endings for what in names]


def _names(judged: bool) -> Mapping[str, str]:
    return _JUDGED if judged else _PAIRS


def _flat(rows: Sequence[Sequence[Example]]) -> list[Example]:
    return [each for row in rows for each in row]
