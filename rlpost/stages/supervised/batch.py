"""Examples -> one packed optimizer batch with its weights.

Owns what a trainer needs of examples and nothing of where they come from. Refuses to own the
arithmetic of weights (algorithms/reduce.py), the layout (training/packing/) and the noise
(training/model/noise.py). Invariant: weights are made over the whole optimizer batch before it is
split, so they hold denominators of all micro-batches and ranks.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlpost.algorithms.reduce import ExampleAggregation, example_weights
from rlpost.data.example import Example
from rlpost.stages.learning.settings import SupervisedTrainerConfig
from rlpost.training.model.noise import neftune_columns
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork


@dataclass(frozen=True, kw_only=True)
class ExamplePacker:
    """Packs examples as a stage's options say.

    Example: ``ExamplePacker.of(cfg.trainer, model_path=path)(mixture.take(64))``
    """

    num_ranks: int
    max_tokens: int  # of a micro-batch
    fill: bool = True  # several examples share a micro-batch
    work: ForwardWork = BY_TOKENS  # what ranks and micro-batches are balanced by
    aggregation: ExampleAggregation = ExampleAggregation.token_mean

    @classmethod
    def of(
        cls,
        cfg: SupervisedTrainerConfig,
        *,
        aggregation: ExampleAggregation = ExampleAggregation.token_mean,
        model_path: str,
    ) -> "ExamplePacker":
        """Return what packs as the options of a trainer of this model say."""
        return cls(
            num_ranks=cfg.data_ranks,
            max_tokens=cfg.max_tokens_per_micro_batch,
            fill=cfg.packing,
            work=ForwardWork.of_model(model_path),
            aggregation=aggregation,
        )

    def __call__(self, examples: Sequence[Example]) -> Packed:
        """Pack an optimizer batch; examples keep their numbers, 0 to n - 1, in ``by_item``.

        Raises:
            UserError: an example is longer than ``max_tokens``.
        """
        units = [
            Unit.of(each.ids.tolist(), scored=each.trained, number=number, name=each.address)
            for number, each in enumerate(examples)
        ]
        weights = example_weights([int(each.trained.sum()) for each in examples], self.aggregation)
        packed = pack(
            units,
            num_ranks=self.num_ranks,
            max_tokens=self.max_tokens,
            fill=self.fill,
            work=self.work,
        )
        return packed.attach(weight_R=dict(enumerate(weights)))


def with_noise(
    packed: Packed, examples: Sequence[Example], *, alpha: float, seed: int, step: int
) -> Packed:
    """Have a packed batch learn with NEFTune's noise on its embeddings; see ``neftune_columns``."""
    return packed.attach(**neftune_columns(_names(examples), alpha=alpha, seed=seed, step=step))


def _names(examples: Sequence[Example]) -> list[str]:
    """Return names that differ, as several examples of one row have one uid."""
    seen: Counter[str] = Counter()
    names = []
    for each in examples:
        names.append(f"{each.uid}/{seen[each.uid]}")
        seen[each.uid] += 1
    return names
