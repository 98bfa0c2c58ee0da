"""Adapters of every kind, as plain peft makes them with random values, and as a run trains them."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.adapters import adapters
from rlpost.training.adapters.four_bit import what_4_bits_stand_for
from rlpost.training.adapters.planning import plan_adaptation
from rlpost.training.adapters.saved import SavedAdapter
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import TrainerConfig

TOKENS = torch.tensor([[5, 17, 200, 33, 90, 4, 71, 8, 250, 12]])
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CONFIGS: dict[str, Any] = {
    "lora": lambda: LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR),
    "rslora": lambda: LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, use_rslora=True),
    "patterns": lambda: LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=LINEAR,
        use_rslora=True,
        rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 6},
        alpha_pattern={"v_proj": 3},
    ),
    "dora": lambda: LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, use_dora=True),
    "adalora": lambda: AdaLoraConfig(
        init_r=6, target_r=3, lora_alpha=8, total_step=100, target_modules=LINEAR
    ),
    "vera": lambda: VeraConfig(r=8, target_modules=LINEAR),
}


def base_model(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Logits of ``TOKENS``, in evaluation mode."""
    return model.eval()(TOKENS).logits


def adapted(path: Path, kind: str, *, seed: int = 0) -> PeftModel:
    """Adapt the model with peft, and give every trainable tensor random values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(base_model(path), CONFIGS[kind]())
        with torch.no_grad():
            for name, param in model.named_parameters():
                if param.requires_grad:
                    spread = torch.randn_like(param) * 0.1
                    # A magnitude stays near the norm that it starts with.
                    param.copy_(param * (1 + spread) if "magnitude" in name else spread)
    return model


def saved(directory: Path) -> SavedAdapter:
    config = json.loads((directory / "adapter_config.json").read_text())
    return SavedAdapter(config=config, tensors=load_file(directory / "adapter_model.safetensors"))


def save(model: PeftModel, directory: Path) -> Path:
    model.save_pretrained(directory)
    return directory


def planned(path, kind, **options) -> TrainedModel:
    """The policy at ``path`` with a new adapter of ``kind``, as a run would train it."""
    config = adapters.get(kind).config(**options)
    plan = plan_adaptation(config, start=None, base=ModelDirectory.read(path), name=str(path))
    return TrainedModel.policy(str(path), TrainerConfig(logprob_chunk=32), adapter=plan)


def base_of(path, kind):
    """The base as training saw it."""
    model = base_model(path)
    if kind == "qlora":
        head = model.get_output_embeddings()
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                module.weight.data = what_4_bits_stand_for(module.weight.data)
    return model
