"""Which room for adapters a run's engines get."""

import pytest

from rlpost.errors import UserError
from rlpost.rollout.generator_config import AdapterCapacity
from rlpost.stages.sampling.generator_settings import adapter_capacity
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.config import LoRAConfig


def trained(**options) -> Adaptation:
    merges = options.pop("merges", None)
    return Adaptation(
        config=LoRAConfig(**options), base="", base_name="", num_trainable=1, merges=merges
    )


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (4, 8), (16, 16), (17, 32), (512, 512)])
def test_room_is_what_vllm_can_be_built_for(rank, room):
    capacity = adapter_capacity(trained(rank=rank), max_staleness=2)
    assert capacity == AdapterCapacity(rank=room, versions=4)


def test_whole_models_need_no_room():
    """Also where the base that is trained on is not the one on disk."""
    assert adapter_capacity(None, max_staleness=2) is None
    assert adapter_capacity(trained(merges="earlier"), max_staleness=2) is None
    assert adapter_capacity(trained(modules_to_save=["embed_tokens"]), max_staleness=2) is None


def test_what_no_engine_can_hold_is_refused():
    with pytest.raises(UserError, match=r"adapter\.rank must be at most 512 .* got 513"):
        adapter_capacity(trained(rank=513), max_staleness=0)
