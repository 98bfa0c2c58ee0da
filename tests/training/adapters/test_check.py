"""Measurements of an adapter that could not be made, or would say nothing, are refused."""

import pytest

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.training.adapters import adapters
from rlpost.training.adapters.check import check_adapter
from rlpost.training.settings import TrainerConfig

MEASURED = ("lora", "rslora", "lora_plus", "qlora")


@pytest.mark.parametrize("kind", MEASURED)
def test_adapters_whose_update_is_a_product_are_measured(kind):
    config = adapters.get(kind).config(diagnose_every=5)
    check_config(config, "adapter")
    check_adapter(config, TrainerConfig(steps=5, zero_stage=2))


@pytest.mark.parametrize("kind", ["dora", "pissa"])
def test_other_adapters_are_not(kind):
    config = adapters.get(kind).config(diagnose_every=5)
    with pytest.raises(UserError, match=f"adapter.diagnose_every=5 has no meaning.*{kind}.*lora"):
        check_config(config, "adapter")


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"zero_stage": 3}, "set trainer.zero_stage=2"),
        ({"steps": 4}, "at most trainer.steps=4, got 5"),
    ],
)
def test_a_measurement_needs_whole_weights_and_an_update(trainer, said):
    with pytest.raises(UserError, match=said):
        check_adapter(adapters.get("lora").config(diagnose_every=5), TrainerConfig(**trainer))
