"""Several adapters of one base become one adapter.

Owns which adapters can be added, and their sum. Refuses to own the algebra
(training/adapters/plain_lora.py) and files. Invariant: the result is plain LoRA, and without a
``rank`` it adds exactly what the adapters add, times their weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rlpost.errors import UserError
from rlpost.merging.adapter_into_base import refuse_misfit, refuse_prompts
from rlpost.merging.measures import MergeMeasures
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.adapters.directory import AdapterDirectory
from rlpost.training.adapters.plain_lora import (
    converts,
    inner_product,
    of_rank,
    to_lora,
    weighted_sum,
)
from rlpost.training.adapters.saved import SavedAdapter

_ALIKE = ("task_type", "fan_in_fan_out")


@dataclass(frozen=True, kw_only=True)
class AdapterSum:
    """Adapters that can be added."""

    adapters: Mapping[str, SavedAdapter]  # plain ones, by the name that the user gave
    weights: Sequence[float]
    rank: int | None  # of the result; None: the sum of the ranks
    four_bit: bool  # whether they learned on a base in 4 bits

    @classmethod
    def plan(
        cls,
        directories: Mapping[str, AdapterDirectory],
        base: ModelDirectory,
        *,
        weights: Sequence[float],
        rank: int | None,
    ) -> "AdapterSum":
        """Check that the adapters can be added.

        Args:
            directories: by the name that the user gave.
            base: of all of them, by its fingerprint where that is known.
            weights: one for each.
            rank: see ``AdapterSum``.

        Raises:
            UserError: an adapter is of another kind or base, or cannot be written as plain LoRA.
        """
        shell = base.shell()
        parameters = {name: tuple(p.shape) for name, p in shell.named_parameters()}
        (first_name, first), *rest = directories.items()
        plain = {}
        for name, directory in directories.items():
            refuse_prompts(directory.fields, field=directory.field)
            adapter = SavedAdapter.read(directory)
            refuse_misfit(adapter, base, parameters, field=directory.field)
            if not converts(adapter.config) or adapter.whole:
                raise UserError(
                    f"{directory.field}: {name} changes more than a sum of low-rank products (DoRA "
                    "or whole weights), so it cannot be added to others; merge each into its base "
                    "with rlpost merge adapter=DIR, and then the models"
                )
            side = 0 if adapter.config.get("fan_in_fan_out") else 1
            inputs = {each: parameters[f"{each}.weight"][side] for each in adapter.modules}
            plain[name] = to_lora(adapter, inputs=inputs)
        for name, directory in rest:
            _require_alike(first_name, first, name, directory)
        return cls(adapters=plain, weights=weights, rank=rank, four_bit=first.four_bit)

    def merged(self) -> tuple[SavedAdapter, float]:
        """Return the sum, and its relative error, which is 0 without a ``rank``."""
        total = weighted_sum(list(self.adapters.values()), self.weights)
        return (total, 0.0) if self.rank is None else of_rank(total, self.rank)

    def measures(self) -> MergeMeasures:
        """Return how alike the adapters' changes are."""
        found = MergeMeasures(base="base")
        for name, each in self.adapters.items():
            found.products[name, name] = inner_product(each, each)
        for first, second in combinations(self.adapters, 2):
            pair = self.adapters[first], self.adapters[second]
            found.products[first, second] = inner_product(*pair)
        return found


def _require_alike(
    first_name: str, first: AdapterDirectory, name: str, other: AdapterDirectory
) -> None:
    for key in _ALIKE:
        if (first.fields.get(key) or None) != (other.fields.get(key) or None):
            raise UserError(
                f"{other.field}: {name} has {key}={other.fields.get(key)!r}, and {first_name} "
                f"{first.fields.get(key)!r}; only adapters for one purpose can be added"
            )
    if first.four_bit != other.four_bit:
        raise UserError(
            f"{other.field}: of {first_name} and {name} one learned on a base in 4 bits and the "
            "other did not, so they belong to different weights; merge each into its base"
        )
    unknown = None in (first.trained_on, other.trained_on)
    if unknown and None not in (first.base, other.base) and first.base != other.base:
        raise UserError(
            f"{other.field}: {name} is an adapter of {other.base}, and {first_name} of "
            f"{first.base}; only adapters of one base can be added"
        )
