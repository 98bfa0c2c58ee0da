"""What is refused of an optimizer, from the command line on."""

import pytest
import torch
from packed_groups import load_plain
from torch import nn

from rlpost.config.compose import compose_stage
from rlpost.config.explain import explain
from rlpost.errors import UserError
from rlpost.foreign_output import quiet_bitsandbytes
from rlpost.models.directory.config_file import ModelKind
from rlpost.training.adapters import adapters
from rlpost.training.adapters.config import LoRAConfig
from rlpost.training.optimizers import optimizers
from rlpost.training.optimizers.adafactor import AdafactorConfig
from rlpost.training.optimizers.adamw_8bit import AdamW8bitConfig
from rlpost.training.optimizers.base import Parameter, Place
from rlpost.training.optimizers.build import kind_of
from rlpost.training.optimizers.check import (
    check_adapter,
    check_device,
    check_offload,
    check_optimizer,
    check_parameters,
)
from rlpost.training.optimizers.galore import GaLoreConfig
from rlpost.training.optimizers.muon import MuonConfig
from rlpost.training.optimizers.parameters import parameters_of
from rlpost.training.optimizers.planned import planned_bytes
from rlpost.training.settings import TrainerConfig

STAGES = {
    "rl": ["experiment=quickstart"],
    "sft": ["data.train=suite:reasoning"],
    "pretrain": ["data.train=suite:reasoning"],
    "preference": ["data.train=pairs:lowercase"],
    "distill": ["data.train=suite:reasoning", "teacher.path=runs/teacher/export"],
    "reward": ["data.train=pairs:consistency"],
}
WHOLE = "trainer.zero_stage=0"


def refusal(*overrides: str, stage: str = "sft") -> str:
    with pytest.raises(Exception) as caught:
        compose_stage([*STAGES[stage], *overrides], stage=stage)
    return explain(caught.value, stage=stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_every_optimizer_and_adamw_by_default(stage):
    cfg, _ = compose_stage(STAGES[stage], stage=stage)
    assert cfg.optimizer == optimizers.get("adamw").config()
    cfg, _ = compose_stage(
        [*STAGES[stage], "optimizer=galore", WHOLE, "optimizer.gap=7"], stage=stage
    )
    assert cfg.optimizer == GaLoreConfig(gap=7)


@pytest.mark.parametrize("kind", [e.name for e in optimizers if e.name != "adamw"])
def test_a_stage_of_zero_that_an_optimizer_cannot_work_in_is_refused(kind):
    cfg = optimizers.get(kind).config()
    for stage in (1, 2, 3):
        with pytest.raises(UserError, match=rf"zero_stage={stage} cuts .* optimizer={kind} needs"):
            check_optimizer(cfg, TrainerConfig(zero_stage=stage))
    check_optimizer(cfg, TrainerConfig(zero_stage=0))
    # The default of the trainer is another stage, so the command line says what to add.
    assert "works with trainer.zero_stage=0; set that" in refusal(f"optimizer={kind}")


@pytest.mark.parametrize("name", ["beta1", "beta2", "eps"])
def test_options_that_adafactor_does_not_read_are_refused(name):
    trainer = TrainerConfig(zero_stage=0, **{name: 0.5})
    with pytest.raises(UserError, match=f"trainer.{name}=0.5 has no effect with .*adafactor"):
        check_optimizer(AdafactorConfig(), trainer)
    for entry in optimizers:
        if entry.name != "adafactor":
            check_optimizer(entry.config(), trainer)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer=galore", WHOLE, "optimizer.rank=0"], "optimizer.rank must be in [1, 100000]"),
        (["optimizer=galore", WHOLE, "optimizer.gap=0"], "optimizer.gap must be in"),
        (["optimizer=galore", WHOLE, "optimizer.scale=0"], "optimizer.scale must be in (0, 1000]"),
        (["optimizer.rank=8"], "not an option of what is chosen here, but of optimizer=galore"),
        (["optimizer=muon", WHOLE, "optimizer.rank=8"], "but of optimizer=galore"),
        (["optimizer.kind=muon"], "choose with optimizer"),
        (["optimizer=muon", WHOLE, "optimizer.momentum=0"], "nesterov=true has no effect"),
        (["optimizer=adamw_bnb_8bit"], "it is called adamw_8bit here"),
        (["optimizer=paged_adamw_8bit"], "it is called adamw_8bit optimizer.paged=true here"),
        (["optimizer=galore_adamw"], "it is called galore here"),
        (["optimizer=adamw_torch_fused"], "it is called adamw here"),
        (["optimizer=lion"], "optimizer must be one of adafactor, adam_mini, adamw"),
        (["optim=adamw_8bit"], "optimizer=NAME chooses"),
        (["use_galore=true"], "optimizer=NAME chooses"),
        (["galore_rank=8"], "it is called optimizer.rank here"),
        (["critic.optimizer=muon"], "not an option"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_a_way_out(overrides, words):
    assert words in refusal(*overrides)


def test_an_adapter_s_matrices_are_treated_as_matrices(tiny_model):
    quiet_bitsandbytes()
    import peft

    config = peft.LoraConfig(r=4, target_modules="all-linear")
    model = peft.get_peft_model(load_plain(tiny_model), config).base_model.model
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = parameters_of(model, trained)
    trainer = TrainerConfig()
    assert len(found) == 2 * 7 * 2  # two matrices of seven layers in both blocks
    with pytest.raises(UserError, match=r"optimizer\.rank=4 must be below .* which is 4"):
        check_adapter(GaLoreConfig(rank=4), LoRAConfig(rank=4), trainer=trainer)
    whole = LoRAConfig(rank=4, modules_to_save=["up_proj"])
    check_adapter(GaLoreConfig(rank=4), whole, trainer=trainer)
    check_adapter(GaLoreConfig(rank=3), LoRAConfig(rank=4), trainer=trainer)
    galore = kind_of(GaLoreConfig(rank=2), trainer)
    mini, muon = (kind_of(optimizers.get(k).config(), trainer) for k in ("adam_mini", "muon"))
    for name, parameter in found.items():
        assert parameter == Parameter(shape=tuple(trained[name].shape)), name
        assert galore.options(parameter) == {"rank": 2}
        assert mini.options(parameter) == {"block_rows": 1}
        assert muon.options(parameter) == {"orthogonal": True}


@pytest.mark.parametrize("name", ["beta1", "beta2", "eps"])
@pytest.mark.parametrize("kind", ["lora", "rslora", "lora_plus", "qlora", "pissa"])
def test_adam_s_options_are_refused_where_muon_has_every_matrix(kind, name):
    adapter, muon = adapters.get(kind).config, MuonConfig()
    changed = TrainerConfig(**{name: 0.5})
    check_adapter(muon, adapter(), trainer=TrainerConfig())
    with pytest.raises(UserError, match=f"trainer.{name}=0.5 has no effect with .*{kind}, whose"):
        check_adapter(muon, adapter(), trainer=changed)
    # Where something else is trained too, AdamW reads them.
    check_adapter(muon, adapter(), trainer=changed, has_head=True)
    check_adapter(muon, adapter(modules_to_save=["embed_tokens"]), trainer=changed)
    check_adapter(muon, adapters.get("dora").config(), trainer=changed)
    check_adapter(optimizers.get("adam_mini").config(), adapter(), trainer=changed)


@pytest.mark.parametrize("kind", ["vera", "adalora", "prompt_tuning"])
def test_what_looks_at_matrices_is_refused_where_there_are_none(kind):
    for entry in optimizers:
        adapter = adapters.get(kind).config()
        if entry.name == "galore":
            with pytest.raises(UserError, match=r"optimizer\.rank=128 must be below"):
                check_adapter(entry.config(), adapter, trainer=TrainerConfig())
        elif entry.name == "muon":
            with pytest.raises(UserError, match=f"muon cannot train adapter={kind}.*adamw"):
                check_adapter(entry.config(), adapter, trainer=TrainerConfig())
        else:
            check_adapter(entry.config(), adapter, trainer=TrainerConfig())


def test_paged_moments_need_a_gpu():
    with pytest.raises(UserError, match=r"optimizer\.paged=true moves .* leave it out"):
        check_device(AdamW8bitConfig(paged=True), on_gpu=False)
    check_device(AdamW8bitConfig(paged=True), on_gpu=True)
    check_device(AdamW8bitConfig(), on_gpu=False)


def test_galore_that_projects_nothing_is_refused(tiny_model):
    matrix, embedding = Parameter(shape=(96, 64)), Parameter(shape=(512, 512), place=Place.end)
    with pytest.raises(UserError, match=r"optimizer\.rank=64 must be below .* which is 64"):
        check_parameters(GaLoreConfig(rank=64), [matrix, embedding, Parameter(shape=(96,))])
    check_parameters(GaLoreConfig(rank=63), [matrix, embedding])
    with pytest.raises(UserError, match="lower it, or use optimizer=adamw"):
        planned_bytes(
            GaLoreConfig(), TrainerConfig(), model_path=str(tiny_model), kind=ModelKind.policy
        )


def test_parameters_are_told_apart_by_the_model_and_not_by_their_names(tiny_model):
    model = load_plain(tiny_model)
    # A layer whose name has the words, and an adapter's matrices within a projection.
    attention = model.model.layers[0].self_attn
    attention.not_q_proj = nn.Linear(attention.q_proj.in_features, attention.head_dim * 3)
    attention.q_proj.lora_A = nn.Linear(attention.q_proj.in_features, 4, bias=False)
    score = nn.Parameter(torch.zeros(1, model.config.hidden_size))
    found = parameters_of(model, dict(model.named_parameters()) | {"score": score})
    layer = "model.layers.0.self_attn"
    heads = {name: each.head_dim for name, each in found.items() if each.head_dim}
    assert heads.keys() == {
        f"model.layers.{i}.self_attn.{p}.weight" for i in range(2) for p in ("q_proj", "k_proj")
    }
    assert set(heads.values()) == {attention.head_dim}
    ends = {name for name, each in found.items() if each.place is Place.end}
    assert ends == {"model.embed_tokens.weight", "score"}  # the output head is tied
    assert found[f"{layer}.q_proj.lora_A.weight"] == Parameter(shape=(4, 64))
    assert found["model.norm.weight"] == Parameter(shape=(64,))


def test_an_optimizer_leaves_a_gpu_only_where_there_is_one_and_it_is_large():
    offloaded = TrainerConfig(offload_optimizer=True, zero_stage=3)
    check_offload(offloaded, on_gpu=True, has_adapter=False)
    check_offload(TrainerConfig(), on_gpu=False, has_adapter=True)
    with pytest.raises(UserError, match=r"trainer\.offload_optimizer=true .* this run is on CPU"):
        check_offload(offloaded, on_gpu=False, has_adapter=False)
    with pytest.raises(UserError, match=r"trainer\.offload_optimizer=true .* with an adapter"):
        check_offload(offloaded, on_gpu=True, has_adapter=True)
