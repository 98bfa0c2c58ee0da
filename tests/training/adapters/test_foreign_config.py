"""What somebody else's adapter_config.json says is checked before peft reads it."""

import json

import pytest
import torch

from rlpost.errors import UserError
from rlpost.training.adapters.foreign_config import (
    require_finite,
    require_known_settings,
    require_sound_values,
)

SOUND = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        *(({"r": rank}, "r in its") for rank in (0, -4, 4.5, True, None, "4", 10**9)),
        *(({"lora_alpha": alpha}, "lora_alpha") for alpha in (0, -8, None, "x", 1e30, True)),
        ({"lora_alpha": float("nan")}, r"number in \(0, 1000000\], got nan"),
        ({"lora_alpha": float("inf")}, "got inf"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"rank_pattern": {"q_proj": -1}}, r"rank_pattern\['q_proj'\]"),
        ({"rank_pattern": {"((": 4}}, "no regular expression"),
        ({"rank_pattern": [1]}, "must map names"),
        ({"rank_pattern": {"([a-z_.0-9]*)*x": 8}}, "take for ever"),
        ({"alpha_pattern": {".*.*.*.*x": 8}}, "take for ever"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern"),
        ({"exclude_modules": "((a+)+)+$"}, "exclude_modules.*take for ever"),
        ({"layers_pattern": "(x+x+)+y"}, "layers_pattern"),
        ({"target_modules": ["q_proj", 3]}, "target_modules.*no name"),
        ({"target_modules": 3}, "target_modules.*no name"),
        ({"exclude_modules": {"a": 1}}, "exclude_modules.*no name"),
        ({"peft_type": "ADALORA", "init_r": 0, "target_r": 4}, "init_r"),
        ({"peft_type": "VERA", "r": "many"}, "r in its"),
    ],
)
def test_numbers_and_patterns_of_which_no_adapter_can_be_made_are_refused(fields, words):
    with pytest.raises(UserError, match=f"adapter: .*{words}"):
        require_sound_values({**SOUND, **fields}, field="adapter")


def test_what_peft_writes_is_sound():
    from peft import AdaLoraConfig, LoraConfig, VeraConfig

    patterns = {"rank_pattern": {r".*\.q_proj": 8}, "alpha_pattern": {"^model.layers.1.mlp.up": 3}}
    regex = r".*\.layers\.[0-9]+\.(q_proj|v_proj)"
    for made in (
        LoraConfig(r=4, target_modules=["q_proj"], **patterns),
        LoraConfig(target_modules=regex),
        AdaLoraConfig(total_step=10, rank_pattern={"q_proj": [True, False]}),
        VeraConfig(),
    ):
        made.base_model_name_or_path = "base"
        plain = {n: sorted(v) if isinstance(v, set) else v for n, v in made.to_dict().items()}
        fields = json.loads(json.dumps(plain))
        require_sound_values(fields, field="adapter")
        require_known_settings(fields, field="adapter")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alora_invocation_tokens", [1]),
        ("layer_replication", [[0, 2]]),
        ("use_qalora", True),
        ("trainable_token_indices", [1]),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "loftq"),
        ("arrow_config", {"a": 1}),
    ],
)
def test_settings_that_make_it_something_else_are_refused(name, value):
    with pytest.raises(UserError, match=f"adapter: .*{name}"):
        require_known_settings({**SOUND, name: value}, field="adapter")
    require_known_settings({**SOUND, name: None}, field="adapter")  # negative control


def test_values_that_are_no_numbers_are_refused():
    require_finite({"a": torch.ones(2)}, field="adapter")
    with pytest.raises(UserError, match="adapter: b holds values"):
        require_finite({"b": torch.tensor([1.0, float("inf")])}, field="adapter")
