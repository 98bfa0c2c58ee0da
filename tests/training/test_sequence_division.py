"""Models whose micro-batches ranks cannot divide are refused by name."""

import pytest
from tiny_families import build_tiny_family

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.training.adapters.check import check_adapter
from rlpost.training.adapters.config import LoRAConfig
from rlpost.training.sequence_division import require_divisible
from rlpost.training.settings import TrainerConfig

HEADS = {"num_attention_heads": 12, "hidden_size": 384}


def trainer(size: int, num_ranks: int = 12) -> TrainerConfig:
    return TrainerConfig(num_ranks=num_ranks, sequence_parallel_size=size)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")

    def build(**changes) -> str:
        name = "-".join(map(str, changes.values()))[:40].replace("/", "")
        return str(build_tiny_family(root / name, "llama", **HEADS, **changes))

    return build


@pytest.mark.parametrize(
    ("kv_heads", "allowed", "refused", "way_out"),
    [(4, (1, 2, 4, 12), (3, 6), "1 or 2 or 4 or 12"), (12, (1, 2, 3, 12), (5, 8, 24), "1 or 2 or")],
)
def test_heads_decide(model, kv_heads, allowed, refused, way_out):
    path = model(num_key_value_heads=kv_heads)
    for size in allowed:
        require_divisible(path, trainer(size), field="model.path")
    for size in refused:
        with pytest.raises(
            UserError,
            match=rf"sequence_parallel_size={size} must divide the 12 attention heads of "
            rf"model\.path=.* its {kv_heads} key-value heads .*num_ranks=12 use {way_out}",
        ):
            require_divisible(path, trainer(size), field="model.path")


def test_positions_that_depend_on_the_longest_are_refused(model):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    path = model(num_key_value_heads=12, rope_parameters=rope)
    require_divisible(path, trainer(1), field="model.path")
    with pytest.raises(UserError, match=r"\(dynamic\) depends on the largest"):
        require_divisible(path, trainer(2), field="model.path")


def test_groups_divide_the_ranks():
    check_config(trainer(4), "trainer")
    assert trainer(4).data_ranks == 3
    with pytest.raises(
        UserError, match=r"trainer\.sequence_parallel_size must divide trainer\.num_ranks=12, got 5"
    ):
        check_config(trainer(5), "trainer")


def test_an_adapter_is_not_measured_on_a_part_of_its_sequences():
    check_adapter(LoRAConfig(diagnose_every=5), trainer(1))
    with pytest.raises(UserError, match=r"diagnose_every=5 .*sequence_parallel_size=2 divides"):
        check_adapter(LoRAConfig(diagnose_every=5), trainer(2))
