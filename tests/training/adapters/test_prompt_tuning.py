"""Virtual tokens in front of packed sequences equal peft's in front of padded ones."""

from dataclasses import replace

import pytest
import torch
from one_rank import trainer
from packed_groups import load_plain, pack_into, random_groups, sequences_of
from peft import PeftModel
from peft_adapters import planned
from safetensors.torch import load_file

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.config.compose import compose_stage
from rlpost.config.explain import explain
from rlpost.training.model.packed_model import ModelInputs
from rlpost.training.packing.pack import one_batch
from rlpost.training.packing.units import Unit

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
NUM, FILE = 5, "adapter_model.safetensors"


def batches():
    return pack_into(*random_groups(), num_micro_batches=2).batches[0]


def update(built, steps):
    for step in steps:
        built.forward_backward(batches(), OBJECTIVE)
        built.optim_step(step)


def padded_scores(model, batch) -> torch.Tensor:
    """Log-probs of the responses by peft on one padded batch, in the order of R."""
    sequences = sequences_of(batch)
    longest = max(len(prompt) + len(response) for prompt, response in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(sequences):
        whole = torch.tensor(prompt + response)
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
    logprobs = model(input_ids=ids, attention_mask=mask).logits[:, NUM:].log_softmax(-1)
    found = []
    for row, (prompt, response) in enumerate(sequences):
        at = torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
        found.append(logprobs[row, at, torch.tensor(response)])
    return torch.cat(found)


def by_peft(path, start, *, steps: int):
    model = PeftModel.from_pretrained(load_plain(path), start)
    trained = list(model.prompt_encoder.parameters())  # peft's own loading freezes them
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        for batch in batches():
            weights = batch.columns["weight_R"] * -batch.columns["advantages_R"]
            (torch.from_numpy(weights) * padded_scores(model, batch)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize(("stage", "recomputed"), [(0, False), (2, True)])
def test_it_equals_peft_is_saved_for_it_and_goes_on_bit_equal(
    stage, recomputed, tiny_model, tmp_path
):
    model = planned(tiny_model, "prompt_tuning", num_virtual_tokens=NUM)
    options = {"zero_stage": stage, "lr": 1e-2, "max_grad_norm": 0.0, "steps": 4}
    options["gradient_checkpointing"] = recomputed
    with trainer(tiny_model, model=model, **options) as built:
        built.export(tmp_path / "start")
        without = built.score(batches(), adapter=False)
        start = built.score(batches())
        update(built, [1, 2])
        built.begin_save(tmp_path / "saved")
        built.finish_save()
        update(built, [3])
        built.export(tmp_path / "export")
        scores = built.score(batches())
        again = built.score(batches(), adapter=False)
    assert all((a == b).all() for a, b in zip(without, again, strict=True))
    plain = PeftModel.from_pretrained(load_plain(tiny_model), tmp_path / "start")
    trained = PeftModel.from_pretrained(load_plain(tiny_model), tmp_path / "export")
    for i, batch in enumerate(batches()):
        with torch.no_grad():
            for ours, theirs in ((start, plain), (scores, trained)):
                expected = padded_scores(theirs, batch)
                torch.testing.assert_close(torch.from_numpy(ours[i]), expected, atol=1e-4, rtol=0)
        assert abs(start[i] - without[i]).max() > 1e-2 < abs(scores[i] - start[i]).max()
    found = load_file(tmp_path / "export" / FILE)["prompt_embeddings"]
    expected = by_peft(tiny_model, tmp_path / "start", steps=3).get_prompt_embedding_to_save(
        "default"
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    with trainer(tiny_model, model=model, **options) as resumed:
        resumed.load(tmp_path / "saved")
        update(resumed, [3])
        resumed.export(tmp_path / "resumed")
    assert torch.equal(load_file(tmp_path / "resumed" / FILE)["prompt_embeddings"], found)


def test_places_in_front_are_those_of_longer_prompts():
    """Two responses share a prompt, so that more than one of them is behind the same places."""
    units = [
        Unit.sharing((5, 9), {0: (7, 2, 8), 1: (8,)}),
        Unit.sharing((3, 4, 6), {2: (11, 12)}),
    ]
    longer = [replace(unit, prompt=(*[0] * NUM, *unit.prompt)) for unit in units]
    cpu = torch.device("cpu")
    expected = ModelInputs.of(one_batch(longer), device=cpu)
    found, places = ModelInputs.of(one_batch(units), device=cpu).behind(NUM)
    for name in ("token_ids_1T", "position_ids_1T", "read_R", "token_R", "target_R"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.blocks == expected.blocks
    seen = [(each.queries, each.prefix) for each in found.layout.segments]
    assert seen == [(each.queries, each.prefix) for each in expected.layout.segments]
    assert found.position_ids_1T[0, places].tolist() == [*range(NUM)] * 2
    assert torch.equal(found.token_ids_1T[0, places], torch.zeros(2 * NUM, dtype=torch.int64))


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("rl", ["experiment=quickstart"]),
        ("preference", ["data.train=pairs:lowercase"]),
        ("reward", ["data.train=pairs:consistency"]),
        ("distill", ["data.train=suite:reasoning", "teacher.path=runs/teacher/export"]),
        ("sft", ["data.train=suite:reasoning", "evaluation.suites=[reasoning]"]),
        ("sft", ["data.train=suite:reasoning", "kl.coefficient=0.1"]),
    ],
)
def test_it_is_for_supervised_stages_without_generators(stage, overrides):
    with pytest.raises(Exception) as caught:
        compose_stage([*overrides, "adapter=prompt_tuning"], stage=stage)
    assert "use adapter=lora" in explain(caught.value, stage=stage)
    plain = ["data.train=suite:reasoning", "adapter=prompt_tuning", "adapter.num_virtual_tokens=7"]
    assert compose_stage(plain, stage="sft")[0].adapter.num_virtual_tokens == 7
