"""Optimizer batches of pairs and judged responses in float64, split as a stage's are."""

from dataclasses import dataclass

import numpy as np
import torch
from preference_references import Judged, Pair, Response

from rlpost.algorithms.diagnostics import Tally, merge
from rlpost.algorithms.loss import LossBatch, Outputs
from rlpost.algorithms.preference import JudgedInputs, PreferenceObjective, preference_losses
from rlpost.training.packing.pack import pack
from rlpost.training.packing.units import Item, Unit


def config_of(kind, **options):
    return preference_losses.get(kind).config(**options)


def is_judged(config):
    return config.inputs is JudgedInputs


def random_rows(config, *, num=5, seed=0):
    """Rows of the kind that the loss takes, with responses of 1 to 6 tokens."""
    generator = np.random.default_rng(seed)

    def response():
        length = int(generator.integers(1, 7))
        policy = -generator.exponential(1.0, length)
        return Response(tuple(policy), tuple(policy + generator.normal(0, 0.5, length)))

    if is_judged(config):
        return [Judged(response(), is_good=row % 2 == 0, z=0.7) for row in range(num)]
    return [Pair(response(), response()) for _ in range(num)]


def responses(row):
    return [row.response] if isinstance(row, Judged) else [row.chosen, row.rejected]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The loss of an optimizer batch, its gradient by (row, place), and its metrics."""

    total: float
    gradients: dict
    metrics: dict


def evaluate(rows, config, *, num_ranks=1, max_tokens=10_000, order=None, local_mean=False):
    """Pack rows in an order, split them and add up; ``local_mean`` is how it must not be done."""
    objective = PreferenceObjective(loss=config)
    leaves = {
        (row, place): torch.tensor(each.policy, dtype=torch.float64, requires_grad=True)
        for row, both in enumerate(rows)
        for place, each in enumerate(responses(both))
    }
    order = list(order or range(len(rows)))
    packed = pack(
        [_unit(rows[row], row) for row in order], num_ranks=num_ranks, max_tokens=max_tokens
    )
    total, tally = 0.0, Tally()
    for batch in (each for mine in packed.batches for each in mine):
        if batch.is_dummy:
            scores_R = torch.full((1,), -1.0, dtype=torch.float64, requires_grad=True)
        else:
            scores_R = torch.cat([leaves[divmod(n, 2)] for n in batch.number_I.tolist()])
        columns = _columns(batch, rows, order, local_mean)
        laid_out = LossBatch(
            item_R=torch.from_numpy(batch.item_R),
            unit_I=torch.from_numpy(batch.unit_I),
            num_items=len(batch.number_I),
            num_units=len(batch.number_U),
            columns={name: torch.tensor(columns[name]) for name in objective.columns},
        )
        result = objective(Outputs(scores_R=scores_R), laid_out)
        part = result.total(laid_out)
        part.backward()
        total += part.item()
        mine = Tally()
        mine.add(result.diagnostics_R, counted_R=laid_out.counted_R)
        mine.add(result.diagnostics_U, counted_R=laid_out.counted_U)
        tally = merge([tally, mine])
    gradients = {place: leaf.grad for place, leaf in leaves.items()}
    return Evaluated(total=total, gradients=gradients, metrics=tally.metrics())


def _unit(row, number):
    items = [
        Item(
            number=2 * number + place,
            ids=tuple(range(len(each.policy))),
            scored=np.ones(len(each.policy), dtype=bool),
        )
        for place, each in enumerate(responses(row))
    ]
    return Unit(prompt=(1, 2, 3), items=tuple(items))


def _columns(batch, rows, order, local_mean):
    """Every column that a loss may ask for; a dummy's are zeros."""
    if batch.is_dummy:
        names = ("weight_U", "weight_R", "ref_logprobs_R", "label_U", "kl_U")
        return {name: np.zeros(1) for name in names}
    mine = [rows[order[place]] for place in batch.number_U.tolist()]
    items = [(*divmod(n, 2), responses(rows[n // 2])[n % 2]) for n in batch.number_I.tolist()]
    is_chosen_R = np.concatenate([[place == 0] * len(each.policy) for _, place, each in items])
    averaged = mine if local_mean else rows
    num_chosen = sum(len(responses(row)[0].policy) for row in averaged)
    share = len(mine) / len(rows) if local_mean else 1.0
    return {
        "weight_U": np.full(len(mine), 1 / len(rows)),
        "weight_R": is_chosen_R * share / num_chosen,
        "ref_logprobs_R": np.concatenate([each.ref for _, _, each in items]),
        "label_U": np.array([float(getattr(row, "is_good", 0.0)) for row in mine]),
        "kl_U": np.array([getattr(row, "z", 0.0) for row in mine]),
    }
