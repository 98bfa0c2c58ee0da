"""The work of tokens, by hand."""

from dataclasses import replace

import pytest
from packed_groups import load_plain

from rlpost.training.packing.batch import Block
from rlpost.training.packing.drafts import drafts_of
from rlpost.training.packing.pack import one_batch, pack
from rlpost.training.packing.units import Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork, attended_pairs


def test_pairs_of_a_block_by_hand():
    # Prompt of 2: 1 + 2. A response of 3 sees the prompt 3 times, and itself 1 + 2 + 3 times.
    assert attended_pairs(Block(prompt=(0, 2), responses=((2, 5),))) == 3 + 6 + 6
    assert attended_pairs(Block(prompt=(0, 2), responses=((2, 5), (5, 6)))) == 15 + 2 + 1
    block = Block(prompt=(3, 7), responses=((7, 10), (10, 15)))
    by_hand = sum(1 for i in range(4) for j in range(4) if j <= i)
    for length in (3, 5):
        by_hand += sum(1 for i in range(4, 4 + length) for j in range(4 + length) if j <= i)
    assert attended_pairs(block) == by_hand


def test_operations_of_a_batch_by_hand():
    work = ForwardWork(body=100, head=10, attention=1)
    batch = one_batch([Unit.sharing([1, 2], {0: [3, 4, 5], 1: [6]})])
    assert work.of_batch(batch) == 2 * 100 * 6 + 2 * 10 * 4 + 4 * (3 + 12 + 3)
    assert work.of_batch(replace(batch, is_dummy=True)) == 0
    assert BY_TOKENS.of_batch(batch) == 2 * 6


def test_a_draft_needs_what_its_batch_needs():
    units = [Unit.sharing([1, 2, 3], {n: [4] * (n + 1)}, family=0) for n in range(4)]
    work = ForwardWork(body=7, head=3, attention=5)
    for share_prompts in (True, False):
        layout = {"num_ranks": 1, "max_tokens": 100, "share_prompts": share_prompts}
        ((batch,),) = pack(units, **layout).batches
        drafts = drafts_of(units, **layout)
        assert sum(draft.flops(work) for draft in drafts) == work.of_batch(batch)
        assert sum(draft.size for draft in drafts) == batch.num_tokens


@pytest.mark.parametrize("model", ["tiny_model", "tiny_untied_model"])
def test_files_say_what_the_loaded_model_says(model, request):
    path = request.getfixturevalue(model)
    plain = load_plain(path)
    shapes = [(name, p.dtype, tuple(p.shape)) for name, p in plain.named_parameters()]
    found, loaded = ForwardWork.of_model(str(path)), ForwardWork.of(plain.config, shapes)
    norms = sum(p.numel() for p in plain.parameters() if p.ndim == 1)
    assert found == replace(loaded, body=loaded.body + norms)
