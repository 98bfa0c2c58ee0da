"""What online distillation plans, and what it makes of samples."""

import pytest
from episodes import episode, trajectory

from rlpost.config.compose import compose_stage
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.distill.modes import estimate, prepare
from rlpost.stages.distill.online import SampleBatches, sampled_examples
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.step_record import StepRecord
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.types import Group, Prompt

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
