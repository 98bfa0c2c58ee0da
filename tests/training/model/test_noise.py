"""NEFTune's noise: as large as the paper says, and the same however a batch is split."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from packed_groups import load_plain, load_policy

from rlpost.data.example import Example
from rlpost.stages.supervised.batch import ExamplePacker, with_noise
from rlpost.training.model.noise import EmbeddingNoise
from rlpost.training.model.packed_model import ModelInputs, loss_batch

CPU = torch.device("cpu")
LENGTHS = (5, 17, 9, 30)
ALPHA = 5.0


def examples():
    generator = np.random.default_rng(0)
    for row, length in enumerate(LENGTHS):
        trained = np.arange(length) > length // 3
        ids = generator.integers(0, 256, length).astype(np.int32)
        yield Example(ids=ids, trained=trained, address=f"rows:{row}", uid=f"s:0:{row}")


def packed(*, num_ranks=1, max_tokens=100, fill=True, step=1, seed=0, order=(0, 1, 2, 3)):
    rows = list(examples())
    rows = [rows[row] for row in order]
    batch = ExamplePacker(num_ranks=num_ranks, max_tokens=max_tokens, fill=fill)(rows)
    return with_noise(batch, rows, alpha=ALPHA, seed=seed, step=step)


def gradient(model, batches):
    model.zero_grad()
    for batch in (batch for mine in batches for batch in mine):
        logprobs_R, *_ = model(ModelInputs.of(batch, device=CPU, learning=True))
        (loss_batch(batch, device=CPU).columns["weight_R"] * -logprobs_R).sum().backward()
    return torch.cat([param.grad.flatten() for param in model.parameters()])


def noise_of(packed_, *, width=64):
    """Noise by length of the row; lengths differ."""
    found = {}
    for batch in (batch for mine in packed_.batches for batch in mine if not batch.is_dummy):
        noise = EmbeddingNoise.of(batch)
        whole_TE = noise.like(torch.zeros(1, batch.num_tokens, width))[0]
        found |= {end - start: whole_TE[start:end] for start, end in noise.spans_U}
    return found


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_policy(tiny_model)


@pytest.mark.parametrize(
    "split",
    [{"max_tokens": 30}, {"fill": False}, {"num_ranks": 2}, {"num_ranks": 3, "max_tokens": 40},
     {"order": (3, 1, 0, 2)}],
)  # fmt: skip
def test_no_split_changes_the_gradient(model, split):
    whole = gradient(model, packed().batches)
    torch.testing.assert_close(
        gradient(model, packed(**split).batches), whole, atol=1e-6, rtol=1e-5
    )
    for length, noise_LE in noise_of(packed(**split)).items():
        assert torch.equal(noise_LE, noise_of(packed())[length])


def test_it_is_as_large_as_the_paper_says():
    width = 64
    for length, noise_LE in noise_of(packed(), width=width).items():
        bound = ALPHA / math.sqrt(length * width)
        assert noise_LE.abs().max() <= bound
        assert noise_LE.norm().item() == pytest.approx(ALPHA / math.sqrt(3), rel=0.1)
        # The packed length would give noise that is too small.
        assert noise_LE.abs().max() > 1.5 * ALPHA / math.sqrt(sum(LENGTHS) * width) or length == 30


def test_seed_step_and_example_decide_it():
    first = noise_of(packed())[17]
    assert torch.equal(first, noise_of(packed())[17])
    for other in (packed(step=2), packed(seed=1)):
        assert not torch.equal(first, noise_of(other)[17])
    assert not torch.equal(first[:5], noise_of(packed())[5])


def test_log_probs_are_those_of_plain_passes_over_noisy_embeddings(model, tiny_model):
    plain = load_plain(tiny_model)
    ((batch,),) = packed().batches
    inputs = ModelInputs.of(batch, device=CPU, learning=True)
    with torch.no_grad():
        ours_R = model(inputs)[0]
        embed, expected = plain.get_input_embeddings(), []
        for each, (_, noise_LE) in zip(examples(), noise_of(packed()).items(), strict=True):
            ids_1L = torch.tensor(each.ids.astype(np.int64))[None]
            logits_LV = plain(inputs_embeds=embed(ids_1L) + noise_LE, use_cache=False).logits[0]
            log_LV = logits_LV.log_softmax(-1)
            kept = torch.tensor(each.trained[1:])
            expected.append(log_LV[:-1].gather(1, ids_1L[0, 1:, None]).squeeze(1)[kept])
    torch.testing.assert_close(ours_R, torch.cat(expected), atol=2e-5, rtol=0)


def test_only_a_pass_that_learns_has_it(model):
    ((batch,),) = packed().batches
    quiet = replace(batch, columns={})
    with torch.no_grad():
        as_asked = model(ModelInputs.of(batch, device=CPU))[0]
        without = model(ModelInputs.of(quiet, device=CPU, learning=True))[0]
        noisy = model(ModelInputs.of(batch, device=CPU, learning=True))[0]
        after = model(ModelInputs.of(batch, device=CPU))[0]
    assert torch.equal(as_asked, without) and torch.equal(as_asked, after)
    assert (noisy - without).abs().max() > 1e-3
