"""Who exists follows from the configuration, and everything else follows from the list."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from rlpost.algorithms.advantages import GAEConfig, GRPOConfig
from rlpost.algorithms.kl import KLConfig
from rlpost.cluster.session import Device
from rlpost.cluster.verifiers import JudgedClusterConfig
from rlpost.config.schema import AlgorithmConfig, CriticRoleConfig, RLConfig
from rlpost.control.placement import Placement
from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.rollout.device_defaults import with_device_defaults
from rlpost.rollout.generator_config import GeneratorConfig, GeneratorDtype
from rlpost.stages.rl.roles import roles_of
from rlpost.stages.roles import Workload, actors_of
from rlpost.stages.run_directory import RunDirectory
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.config import LoRAConfig
from rlpost.training.optimizers.adamw import AdamWConfig
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.training.settings import ReferenceRanksConfig, TrainerConfig
from rlpost.verifiers.kinds.exact import ExactConfig

WORK = Workload(micro_batch_tokens=64, on_gpu=False, gpu_bytes=None)


EXACT = {"exact": ExactConfig()}


@pytest.fixture
def roles(tiny_model, tiny_reward, tmp_path):
    def of(device=Device.cpu, on_policy=None, verifiers=EXACT, **options):
        cfg = RLConfig(trainer=TrainerConfig(num_ranks=2), optimizer=AdamWConfig(), **options)
        paths = dict.fromkeys(cfg.reward_models, str(tiny_reward))
        models = SimpleNamespace(
            policy=str(tiny_model),
            critic=str(tiny_model),
            rewards=paths,
            checked=SimpleNamespace(adapter=on_policy),
            tokenizer=ModelDirectory.read(str(tiny_model)).tokenizer(),
        )
        generator = GeneratorConfig(
            num=1, tensor_parallel_size=2, max_model_len=64, dtype=GeneratorDtype.float32
        )
        generator = with_device_defaults(generator, on_gpu=device is Device.cuda, cores=1)
        directory = RunDirectory(root=tmp_path / "run")
        return roles_of(
            cfg,
            models=models,
            generator=generator,
            adapters=None,
            verifiers=verifiers,
            directory=directory,
            device=device,
        )

    return of


def test_where_reward_models_judge_alone_nothing_verifies(roles):
    found = roles(verifiers={}, reward_models={"taste": RewardModelConfig(path="x")})
    assert [role.name for role in found] == ["trainer", "rewards", "generators"]


EVERY = {
    "algorithm": AlgorithmConfig(advantage=GAEConfig(), kl=KLConfig(coefficient=0.1)),
    "critic": CriticRoleConfig(enabled=True),
    "reward_models": {"taste": RewardModelConfig(path="x")},
}


def test_a_run_without_options_has_a_trainer_and_generators(roles):
    found = roles()
    assert [role.name for role in found] == ["trainer", "generators", "verifiers"]
    assert [role.processes for role in found] == [
        "2 trainer ranks", "1 generator", "2 verifier workers",
    ]  # fmt: skip


def test_a_new_adapter_needs_no_second_model_and_any_other_start_does(roles, tiny_model, tmp_path):
    def names(config, **start):
        plan = Adaptation(config=config, base="", base_name="", num_trainable=1000, **start)
        kl = AlgorithmConfig(kl=KLConfig(coefficient=0.1), advantage=GRPOConfig())
        found = roles(on_policy=plan, algorithm=kl)
        assert found[0].checkpoint_bytes == 13 * 1000
        assert found[0].export_bytes < 13 * 1000
        return [role.name for role in found]

    assert "reference" not in names(LoRAConfig())
    assert "reference" in names(LoRAConfig(), merges="x")
    assert "reference" in names(LoRAConfig(), continues="x")


def test_every_role_has_slots_words_and_memory(roles):
    found = roles(**EVERY, device=Device.cuda)
    assert [role.processes for role in found] == [
        "2 trainer ranks", "2 critic ranks", "1 reference", "1 reward model", "1 generator",
        "2 verifier workers",
    ]  # fmt: skip
    actors = {actor.name: actor.num_gpus for actor in actors_of(found)}
    assert actors == {
        "trainer rank 0": 1, "trainer rank 1": 1, "critic rank 0": 1, "critic rank 1": 1,
        "reference": 1, "reward model taste": 1, "generator 0": 2,
    }  # fmt: skip
    assert [role.name for role in found if role.trained] == ["trainer", "critic"]
    assert [role.name for role in found if role.spawn is None] == ["generators"]
    for role in found:
        processes = {each.process.partition(":")[0] for each in role.memory(WORK)}
        assert processes == ({actor.name for actor in role.actors} or {"verifiers"})


def test_several_references_have_a_slot_and_memory_each(roles):
    found = roles(**EVERY, device=Device.cuda, reference=ReferenceRanksConfig(num_ranks=3))
    (reference,) = (role for role in found if role.name == "reference")
    assert reference.processes == "3 reference ranks"
    names = [f"reference rank {rank}" for rank in range(3)]
    assert [actor.name for actor in reference.actors] == names
    assert [each.process for each in reference.memory(WORK)] == names


DIVIDED = {
    **EVERY,
    "reference": ReferenceRanksConfig(num_ranks=2, zero_stage=3),
    "reward_models": {"taste": RewardModelConfig(path="x", num_ranks=2, zero_stage=3)},
}


def weights_of(found, name: str) -> dict[str, float]:
    (role,) = (role for role in found if role.name == name)
    gpu = replace(WORK, on_gpu=True)
    return {each.process: each.kept["weights"] for each in role.memory(gpu) if each.on_gpu}


def test_ranks_that_divide_a_frozen_model_have_slots_and_a_part_each(roles):
    found, whole = (roles(**options, device=Device.cuda) for options in (DIVIDED, EVERY))
    for role, copy in (("reference", "reference"), ("rewards", "reward model taste")):
        parts, (all_of_it,) = weights_of(found, role), weights_of(whole, role).values()
        assert parts == dict.fromkeys((f"{copy} rank 0", f"{copy} rank 1"), all_of_it / 2)
        (own,) = (each for each in found if each.name == role)
        assert [actor.name for actor in own.actors] == list(parts)
        assert all(actor.num_gpus == 1 for actor in own.actors)


@pytest.mark.parametrize("what", ["reference", "reward_models"])
def test_two_ranks_of_a_group_are_not_put_on_one_gpu(roles, what):
    cluster = JudgedClusterConfig(placement=Placement.colocated)
    options = {**EVERY, "cluster": cluster, what: DIVIDED[what]}
    roles(**options, device=Device.cuda)  # as many as trainer ranks
    many = DIVIDED[what] if what == "reference" else DIVIDED[what]["taste"]
    many = replace(many, num_ranks=3)
    options[what] = many if what == "reference" else {"taste": many}
    roles(**options)  # on a CPU they may
    with pytest.raises(UserError, match=r"num_ranks=3 .*must be at most trainer\.num_ranks=2"):
        roles(**options, device=Device.cuda)
