"""What online distillation plans, and what it makes of samples."""

from dataclasses import replace

import pytest
from episodes import episode, trajectory
from supervised_runs import write_rows

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama, byte_tokenizer
from rlpost.stages.distill.modes import estimate, prepare
from rlpost.stages.distill.online import SampleBatches, sampled_examples
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.step_record import StepRecord
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.types import Group, Prompt

ASKED = ({"role": "user", "content": "2 + 2?"},)
GIVEN = ("data.online=true", "data.train=arithmetic", "data.size=50", "rollout.max_tokens=8")


def groups():
    """Two prompts; nobody judged the responses."""
    found = []
    for number, lengths in enumerate([(3, 1), (2, 4)]):
        prompt = Prompt(uid=f"0:{number}", token_ids=(7, 8, 9), text="")
        episodes = tuple(
            episode(
                trajectory(list(range(length)), prompt_ids=prompt.token_ids),
                uid=prompt.uid,
                sample=sample,
                reward=None,
            )
            for sample, length in enumerate(lengths)
        )
        found.append(Group(prompt=prompt, episodes=episodes))
    return found


async def test_every_sampled_token_is_compared_and_weighs_the_same():
    examples = sampled_examples(groups())
    assert [each.ids.tolist() for each in examples[:2]] == [[7, 8, 9, 0, 1, 2], [7, 8, 9, 0]]
    assert [int(each.trained.sum()) for each in examples] == [3, 1, 2, 4]
    assert not any(each.trained[:3].any() for each in examples)
    batches = SampleBatches(packer=ExamplePacker(num_ranks=2, max_tokens=16))
    packed = await batches.packed(groups(), StepRecord())
    weights = [
        weight
        for mine in packed.batches
        for batch in mine
        for weight in batch.columns["weight_R"].tolist()
        if not batch.is_dummy
    ]
    assert weights == pytest.approx([1 / 10] * 10)


@pytest.fixture
def planned(tmp_path, tiny_model):
    teacher = build_tiny_llama(tmp_path / "teacher", layers=3, vocabulary=384, seed=7)

    def plan(*overrides):
        given = [f"model.path={tiny_model}", f"teacher.path={teacher}", *overrides]
        cfg, _ = compose_stage(given, stage="distill")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return plan


def test_who_exists_follows_from_the_verifier(planned):
    plan = planned(*GIVEN, "examples_per_step=10", "trainer.epochs=2")
    assert [role.name for role in plan.roles] == ["trainer", "generators"]
    assert plan.cfg.trainer.steps == 10
    judged = planned(*GIVEN, "verifier=numeric")
    assert [role.name for role in judged.roles] == ["trainer", "generators", "verifiers"]


def test_the_teacher_is_in_the_memory_of_each_rank(planned):
    plan = planned(*GIVEN, "trainer.num_ranks=2", "trainer.dtype=float32")
    found = estimate(plan, gpu_bytes=None)
    for rank in range(2):
        (needs,) = found.of(f"trainer rank {rank}")
        assert needs.kept["frozen teacher"] > 3 / 2 * needs.kept["weights"] * 0.9


MIXED = ("data.online=true", "data.train=rows.jsonl", "rollout.max_tokens=8")


def test_a_part_of_the_prompts_gives_the_response_of_its_row(planned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [{"role": "user", "content": "And 3 + 3?"}]
    rows = [{"prompt": f"{n} + {n}?", "completion": str(2 * n)} for n in range(199)]
    write_rows(tmp_path / "rows.jsonl", [*rows, {"prompt": asked, "completion": "6"}])
    plan = planned(*MIXED, "data.on_policy_fraction=0.3", "seed=5")
    rows, given = plan.sampling.train_set, plan.given
    prompts = [rows.prompt(epoch, row) for epoch in (0, 1) for row in range(200)]
    answered = [given.answers(prompt) for prompt in prompts]
    assert 0.2 < sum(answered) / len(answered) < 0.4
    assert answered[:200] != answered[200:], "each epoch decides anew"
    again = planned(*MIXED, "data.on_policy_fraction=0.3", "seed=5").given
    assert [again.answers(prompt) for prompt in prompts] == answered
    other = planned(*MIXED, "data.on_policy_fraction=0.3", "seed=6").given
    assert [other.answers(prompt) for prompt in prompts] != answered
    for prompt, text in ((prompts[21], "42"), (prompts[199], "6")):
        (example,) = given.examples(prompt)
        size = len(prompt.token_ids)
        assert tuple(example.ids[:size]) == prompt.token_ids and not example.trained[:size].any()
        assert byte_tokenizer().decode(example.ids[example.trained]) == f"{text}<|im_end|>"


async def test_what_was_sampled_and_what_is_given_are_averaged_together(
    planned, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "1 + 1?", "completion": "2"}] * 3)
    given = planned(*MIXED, "data.on_policy_fraction=0.5").given
    prompt = Prompt(uid="0:9", token_ids=(7,), text="2 + 2?", columns={"completion": "44"})
    packer, record = ExamplePacker(num_ranks=1, max_tokens=64), StepRecord()
    mixed = [*groups(), Group(prompt=replace(prompt, conversation=ASKED), episodes=())]
    packed = await SampleBatches(packer=packer, given=given).packed(mixed, record)
    assert record.metrics["distill/on_policy_fraction"] == pytest.approx(2 / 3)
    ((batch,),) = packed.batches
    assert batch.columns["weight_R"].tolist() == pytest.approx([1 / 13] * 13)  # 10 and 3 tokens


def test_rows_without_a_response_are_refused(planned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "1 + 1?"}])
    with pytest.raises(UserError, match=r"rows\.jsonl:1: no column 'completion'"):
        planned(*MIXED, "data.on_policy_fraction=0.5")
    long = {"prompt": "1 + 1?", "completion": "2" * 300}
    write_rows(tmp_path / "rows.jsonl", [long])
    with pytest.raises(UserError, match="at most 256 fit"):
        planned(*MIXED, "data.on_policy_fraction=0.5", "trainer.max_tokens_per_micro_batch=256")
