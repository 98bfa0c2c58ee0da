"""Two ranks under ZeRO-3 that read each weight in two parts hold what two that load it all do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from packed_groups import load_plain
from peft import LoraConfig, get_peft_model
from rank_processes import run_ranks
from safetensors.torch import load_file, save_file
from tiny_families import build_tiny_family

SCRIPT = Path(__file__).with_name("parts_rank.py")
BROKEN = "model.layers.1.mlp.down_proj.weight"


def damaged(model: Path, to: Path) -> Path:
    """A copy with a value that is not finite where only the second rank reads."""
    shutil.copytree(model, to)
    tensors = load_file(to / "model.safetensors")
    tensors[BROKEN].view(-1)[-1] = torch.inf
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def merged_first(model: Path, to: Path) -> Path:
    """A LoRA adapter of random values."""
    options = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    torch.manual_seed(0)
    get_peft_model(load_plain(model), LoraConfig(**options)).save_pretrained(to)
    return to


@pytest.mark.timeout(600)
def test_parts_are_the_whole_bit_for_bit(tiny_model, tiny_untied_model, tiny_reward, tmp_path):
    learned = build_tiny_family(tmp_path / "gpt2", "gpt2")  # positions are weights, biases exist
    broken = damaged(tiny_untied_model, tmp_path / "broken")
    cases = [
        {"path": str(tiny_model), "role": "policy", "dtype": "bfloat16"},  # a tied head
        {"path": str(learned), "role": "policy", "dtype": "float32", "checkpointing": True},
        {"path": str(tiny_untied_model), "role": "critic", "dtype": "float32"},  # a head of zeros
        {"path": str(tiny_reward), "role": "critic", "dtype": "bfloat16"},  # a head of the files
        {  # experts that are fused, and a module that is trained beside the adapter
            "path": str(build_tiny_family(tmp_path / "experts", "qwen3_moe")),
            "role": "policy",
            "dtype": "bfloat16",
            "checkpointing": True,
            "adapter": {"kind": "lora", "rank": 4, "modules_to_save": ["lm_head"]},
        },
        {  # weights that are renamed, and a start that moves them
            "path": str(build_tiny_family(tmp_path / "renamed", "gpt_neox")),
            "role": "policy",
            "dtype": "float32",
            "adapter": {"kind": "pissa", "rank": 4},
        },
        {  # a start that reads them, after another adapter was merged into them
            "path": str(tiny_untied_model),
            "role": "policy",
            "dtype": "float32",
            "adapter": {"kind": "dora", "rank": 4},
            "start": str(merged_first(tiny_untied_model, tmp_path / "first")),
        },
        {"path": str(tiny_model), "role": "policy", "dtype": "float32", "shifted": True},
        {"path": str(broken), "role": "policy", "dtype": "float32"},
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    first, ports = [str(tmp_path / "cases.json")], 2 * len(cases)
    run_ranks(SCRIPT, tmp_path, ranks=2, first=first, control="none", num_ports=ports)
    both = [json.loads((tmp_path / f"result.json.{rank}").read_text()) for rank in range(2)]
    for rank, (*good, wrong, refused) in enumerate(both):
        for case, said in zip(cases, good, strict=False):
            assert said["differing"] == [], (case, rank)
            # Half of every tensor, and of an odd number of elements one more.
            assert 0 < said["most"] <= 0.51, (case, rank, said["most"])
        # Negative control: rank 0 reads from the beginning in any case.
        of_rank = "model.model.embed_tokens.weight part"
        assert (of_rank in wrong["differing"]) is (rank == 1)
        assert refused["error"].startswith(f"model.path: model.{BROKEN} holds values that are not")
    assert any(name.endswith(" buffer") for name in good[0]["names"])
