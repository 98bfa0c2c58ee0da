"""A micro-batch that ranks divide: each row is computed once, where its token is.

What the exchanges make of it is compared with plain torch in tests/system/.
"""

from dataclasses import replace

import pytest
import torch
from packed_groups import pack_into, random_groups

from rlpost.training.model.attention import PackedLayout
from rlpost.training.model.noise import EmbeddingNoise
from rlpost.training.model.packed_model import ModelInputs, ScoredPlaces
from rlpost.training.model.sequence_parallel import SequenceGroup

CPU = torch.device("cpu")
SIZE = 4


def whole_inputs() -> ModelInputs:
    """Shared prompts, so that several rows are read at one token, and no multiple of the ranks."""
    ((batch,),) = pack_into(*random_groups()).batches
    inputs = ModelInputs.of(batch, device=CPU)
    assert batch.num_tokens % SIZE
    assert len(inputs.read_R.unique()) < len(inputs.read_R)
    return inputs


def parts(inputs: ModelInputs, **options):
    for rank in range(SIZE):
        group = SequenceGroup(process_group=None, rank=rank, size=SIZE)
        yield inputs.divided(group, **options)


def test_tokens_are_divided_in_order_with_padding_as_a_sequence_of_its_own():
    inputs = whole_inputs()
    num = inputs.token_ids_1T.shape[1]
    found = list(parts(inputs, reads_before=True))
    ids_T = torch.cat([each.inputs.token_ids_1T[0] for each in found])
    positions_T = torch.cat([each.inputs.position_ids_1T[0] for each in found])
    missing = len(ids_T) - num
    assert 0 < missing < SIZE
    assert ids_T[:num].equal(inputs.token_ids_1T[0])
    assert positions_T.tolist() == [*inputs.position_ids_1T[0].tolist(), *range(missing)]
    for each in found:
        layout: PackedLayout = each.inputs.layout
        assert layout.segments[:-1] == inputs.layout.segments
        assert layout.segments[-1].queries == (num, num + missing)


@pytest.mark.parametrize("reads_before", [True, False])
def test_each_row_is_read_where_its_token_is_and_ends_at_its_place(reads_before):
    inputs = whole_inputs()
    found = list(parts(inputs, reads_before=reads_before))
    (rows,) = {len(each.inputs.read_R) for each in found}
    assert all(each.place_R.equal(found[0].place_R) for each in found)
    read = torch.cat([each.start + each.inputs.read_R for each in found])
    target = torch.cat([each.inputs.target_R for each in found])
    at_R = inputs.read_R if reads_before else inputs.token_R
    assert read[found[0].place_R].equal(at_R)
    assert target[found[0].place_R].equal(inputs.target_R)
    assert len(found[0].place_R.unique()) == len(at_R) <= SIZE * rows


def test_a_rank_without_a_row_computes_as_many_as_the_others():
    inputs = whole_inputs()
    places = ScoredPlaces(read_R=inputs.places.read_R[-1:], token_R=inputs.places.token_R[-1:])
    last = replace(inputs, target_R=inputs.target_R[-1:], **places.on(CPU))
    found = list(parts(last, reads_before=False))
    assert [len(each.inputs.read_R) for each in found] == [1] * SIZE
    assert found[0].place_R.tolist() == [SIZE - 1]


def test_noise_is_that_of_the_whole_sequence():
    spans = [(0, 7), (7, 30)]
    whole = EmbeddingNoise(keys_U=[1, 2], alphas_U=[5.0, 5.0], spans_U=spans)
    expected_TE = whole.like(torch.zeros(1, 30, 8))[0]
    pieces = [whole.from_token(start).like(torch.zeros(1, 10, 8))[0] for start in (0, 10, 20)]
    assert torch.cat(pieces).equal(expected_TE)


def test_fewer_key_value_heads_than_ranks_are_repeated_for_neighbours():
    group = SequenceGroup(process_group=None, rank=0, size=SIZE)
    heads = torch.arange(2.0).view(1, 2, 1, 1)
    assert group._for_all_ranks(heads).flatten().tolist() == [0, 0, 1, 1]
    with pytest.raises(AssertionError):
        group._for_all_ranks(torch.zeros(1, 3, 1, 1))
