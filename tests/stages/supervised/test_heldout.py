"""Held-out losses are exact means, whatever was in one call."""

import math

import numpy as np
import pytest
import torch
from packed_groups import load_plain, load_policy

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.loss import Outputs
from rlpost.data.example import Example
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.stages.supervised.heldout import heldout_loss
from rlpost.training.model.packed_model import ModelInputs, loss_batch

CPU = torch.device("cpu")


class OneProcess:
    """A trained group whose model is here."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    @torch.no_grad()
    async def measure(self, packed, objective):
        self.calls += 1
        tally = Tally()
        for batch in (each for mine in packed.batches for each in mine):
            columns = loss_batch(batch, device=CPU)
            result = objective(Outputs.of(self.model(ModelInputs.of(batch, device=CPU))), columns)
            tally.add(result.diagnostics_R, counted_R=columns.counted_R)
        return tally


def examples(lengths, seed):
    generator = np.random.default_rng(seed)
    for row, length in enumerate(lengths):
        ids = generator.integers(0, 256, length).astype(np.int32)
        trained = np.arange(length) >= generator.integers(1, length)
        yield Example(ids=ids, trained=trained, address=f"rows:{row}")


SOURCES = {"short": list(examples((3, 5, 4), 1)), "long": list(examples((40, 30, 22, 9), 2))}


@torch.no_grad()
def plain(model, rows):
    """Sum of -log p, number right, and number of trained tokens."""
    sums = np.zeros(3)
    for each in rows:
        ids_1T = torch.tensor(each.ids.astype(np.int64))[None]
        log_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].log_softmax(-1)
        target_T, kept_T = ids_1T[0, 1:], torch.tensor(each.trained[1:])
        nll_T = -log_TV.gather(1, target_T[:, None]).squeeze(1)
        right_T = log_TV.argmax(-1) == target_T
        sums += (nll_T[kept_T].sum(), right_T[kept_T].sum(), kept_T.sum())
    return sums


@pytest.mark.parametrize("tokens_per_call", [10, 45, 10**6])
async def test_every_mean_is_over_all_tokens(tiny_model, tokens_per_call):
    policy, said = OneProcess(load_policy(tiny_model)), []
    measure = heldout_loss(
        "sft",
        policy=policy,
        packer=ExamplePacker(num_ranks=2, max_tokens=64),
        sources=SOURCES,
        progress=said.append,
        tokens_per_call=tokens_per_call,
    )
    found = await measure()
    sums = {f"/{name}": plain(load_plain(tiny_model), rows) for name, rows in SOURCES.items()}
    for ending, (nll, right, count) in {**sums, "": sum(sums.values())}.items():
        loss = found.pop(f"sft/heldout_loss{ending}")
        assert loss == pytest.approx(nll / count, rel=1e-5)
        assert found.pop(f"sft/heldout_perplexity{ending}") == pytest.approx(math.exp(loss))
        assert found.pop(f"sft/heldout_token_accuracy{ending}") == pytest.approx(right / count)
    assert found == {}
    assert len(said) == policy.calls == {10: 6, 45: 4, 10**6: 2}[tokens_per_call]
    # The mean of the sources' means is another number: a local mean would be noticed.
    means = [nll / count for nll, _, count in sums.values()]
    assert abs(sum(means) / 2 - sum(sums.values())[0] / sum(sums.values())[2]) > 1e-3
