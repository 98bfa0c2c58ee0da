"""An adapter on one real rank: updates, files, checkpoints and pushes equal those of plain peft.

Several ranks are in tests/system/test_gradient_parity.py.
"""

import json

import pytest
import torch
from one_rank import trainer
from packed_groups import load_plain, pack_into, plain_scores, random_groups, relative_difference
from safetensors.torch import load_file

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.adapters import adapters
from rlpost.training.adapters.config import NoAdapterConfig
from rlpost.training.adapters.planning import plan_adaptation
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero.deepspeed_adapter import MergeError

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
FILE = "adapter_model.safetensors"


def adapted(path, kind="lora", *, start=None, **options) -> TrainedModel:
    """The policy at ``path`` with an adapter of ``kind``, or the one in ``start``."""
    config = NoAdapterConfig() if kind is None else adapters.get(kind).config(**options)
    plan = plan_adaptation(config, start=start, base=ModelDirectory.read(path), name=str(path))
    return TrainedModel.policy(str(path), TrainerConfig(logprob_chunk=32), adapter=plan)


def batches():
    return pack_into(*random_groups(), num_micro_batches=3).batches[0]


def train(built, steps) -> None:
    for step in steps:
        built.forward_backward(batches(), OBJECTIVE)
        built.optim_step(step)


def exported(built, directory) -> dict[str, torch.Tensor]:
    built.export(directory)
    return load_file(directory / FILE)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 45)[None]).logits


def plain_peft(path, start, *, steps: int):
    """The same updates of the adapter in ``start`` with peft, torch's AdamW and its clipping."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_plain(path), start, is_trainable=True)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for _ in range(steps):
        loss = sum(
            (
                torch.from_numpy(batch.columns["weight_R"] * -batch.columns["advantages_R"])
                * plain_scores(model, batch)[0]
            ).sum()
            for batch in batches()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_updates_equal_plain_peft_and_a_resumed_run_has_the_same_bits(tmp_path, tiny_model, stage):
    from peft import PeftModel

    options = {"zero_stage": stage, "max_grad_norm": 0.05, "weight_decay": 0.01}
    model = adapted(tiny_model, rank=4)
    with trainer(tiny_model, model=model, **options) as built:
        start = exported(built, tmp_path / "start")
        base = built.score(batches())
        train(built, [1, 2])
        without = built.score(batches(), adapter=False)
        assert all((a == b).all() for a, b in zip(base, without, strict=True))
        assert any((a != b).any() for a, b in zip(base, built.score(batches()), strict=True))
        built.begin_save(tmp_path / "saved")
        built.finish_save()
        train(built, [3])
        trained = exported(built, tmp_path / "export")
        pushed = {name: t.clone() for name, t in built.served.tensors()}
        shapes = [(name, t.dtype, tuple(t.shape)) for name, t in pushed.items()]
        assert shapes == built.served.shapes()
        served = built.served.adapter
    assert all(torch.equal(pushed[name], t) for name, t in trained.items())
    assert served == json.loads((tmp_path / "export/adapter_config.json").read_text())

    assert {n for n, t in start.items() if not t.any()} == {n for n in start if "lora_B" in n}
    plain = plain_peft(tiny_model, tmp_path / "start", steps=3)
    expected = {
        name.replace(".default.", "."): p for name, p in plain.named_parameters() if p.requires_grad
    }
    assert relative_difference(trained, expected) < 1e-4
    loaded = PeftModel.from_pretrained(load_plain(tiny_model), tmp_path / "export")
    torch.testing.assert_close(logits(loaded), logits(plain), atol=1e-4, rtol=0)

    saved = [n for f in (tmp_path / "saved").glob("*.safetensors") for n in load_file(f)]
    assert len(saved) == 3 * len(start)  # masters and two moments of the adapter alone
    with trainer(tiny_model, model=model, **options) as again:
        again.load(tmp_path / "saved")
        train(again, [3])
        resumed = exported(again, tmp_path / "resumed")
    assert all(torch.equal(resumed[name], t) for name, t in trained.items())


def test_the_error_of_a_merge_is_what_rounding_takes_of_the_change():
    error = MergeError()
    assert error.share is None
    base = torch.ones(2, dtype=torch.bfloat16)  # whose neighbour above is 1 + 2 ** -7
    exact = torch.tensor([1 + 2**-7, 1 + 2**-10])
    error.add(exact=exact, merged=exact.to(base.dtype), base=base)
    assert error.share == pytest.approx(2**-10 / (2**-14 + 2**-20) ** 0.5)
    lost = MergeError()
    lost.add(exact=exact[1:], merged=exact[1:].to(base.dtype), base=base[1:])
    assert lost.share == 1


def test_a_stacked_adapter_starts_from_the_merged_base_and_exports_the_whole_model(
    tmp_path, tiny_model
):
    import peft

    first = peft.get_peft_model(
        load_plain(tiny_model),
        peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False),
    )
    first.save_pretrained(tmp_path / "first")
    merged = first.merge_and_unload()
    model = adapted(tiny_model, rank=2, start=str(tmp_path / "first"))
    with trainer(tiny_model, model=model, zero_stage=3) as built:
        assert built.served.adapter is None
        built.export(tmp_path / "untrained")
        torch.testing.assert_close(
            logits(load_plain(tmp_path / "untrained")), logits(merged), atol=1e-4, rtol=0
        )
        train(built, [1])
        scores = built.score(batches())
        built.export(tmp_path / "export")
        assert all((a == b).all() for a, b in zip(scores, built.score(batches()), strict=True))
    trained = plain_scores(load_plain(tmp_path / "export"), batches()[0])[0]
    torch.testing.assert_close(torch.from_numpy(scores[0]), trained.detach(), atol=1e-3, rtol=0)
    assert relative_difference({"": logits(load_plain(tmp_path / "export"))}, {"": logits(merged)})
