"""Pairs of a policy's own samples: what is learned of them, and what cannot work."""

from types import SimpleNamespace

import pytest
from episodes import episode, trajectory

from rlpost.checkpoint.space import format_bytes
from rlpost.cli.main import main
from rlpost.config.compose import compose_stage
from rlpost.errors import NothingToPrefer
from rlpost.rollout.producer import Batch
from rlpost.stages.estimate import response_bytes
from rlpost.stages.preference.modes import estimate, prepare
from rlpost.stages.preference.online.job import PairBatches
from rlpost.stages.preference.online.pairs import pair_of, paired_examples
from rlpost.stages.rl.plan import prepare as prepare_rl
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.online_job import OnlineJob
from rlpost.stages.step_record import StepRecord
from rlpost.types import Group, Prompt

ONLINE = ("data.online=true", "data.train=arithmetic", "verifier=math", "rollout.max_tokens=8")
PROMPT = Prompt(uid="0:4", token_ids=(1, 2, 3), text="?", address="train.jsonl:5")


def group(*rewards, written=False):
    """Responses of which each has a token of its own."""
    versions = [1, None, 1] if written else 1
    answers = (
        trajectory((10 + place, 90, 2), prompt_ids=PROMPT.token_ids, versions=versions)
        for place in range(len(rewards))
    )
    return Group(
        prompt=PROMPT,
        episodes=tuple(
            episode(each, uid=PROMPT.uid, sample=place, reward=reward)
            for place, (each, reward) in enumerate(zip(answers, rewards, strict=True))
        ),
    )


def test_a_pair_becomes_two_examples_with_the_chosen_one_first():
    chosen, rejected = paired_examples([group(0.5, 0.5), group(0.0, None, 1.0)], seed=0)
    assert chosen.ids.tolist() == [1, 2, 3, 12, 90, 2]
    assert rejected.ids.tolist() == [1, 2, 3, 10, 90, 2]
    assert chosen.trained.tolist() == [False] * 3 + [True] * 3
    assert chosen.uid == rejected.uid == "0:4"
    assert chosen.address == "train.jsonl:5, sample 2"


def test_what_was_written_into_a_response_is_not_learned():
    chosen, _ = paired_examples([group(1.0, 0.0, written=True)], seed=0)
    assert chosen.trained.tolist() == [False] * 3 + [True, False, True]


def test_a_group_without_a_difference_has_no_pair():
    assert pair_of(group(1.0, 1.0), seed=0) is None
    assert pair_of(group(1.0, None), seed=0) is None
    assert pair_of(group(1.0, 0.0), seed=0) is not None


class Sampling:
    """Gives one batch in which nothing is preferred."""

    def __init__(self):
        self.noted, self.learning = [], SimpleNamespace(check=lambda: None)
        self.run, self.bus = SimpleNamespace(step=6), SimpleNamespace(takes_turns=False)

    async def next_batch(self, record):
        return Batch(
            groups=(), sampled=(group(1.0, 1.0),) * 3, lags=(), oldest_version=0, dropped=(),
            generation_s=0.0, verification_s=0.0, idle_s=0.0,
        )  # fmt: skip

    async def rest(self):
        """Nobody leaves a device."""

    def finish(self, batch, record, *, step, updated):
        self.noted.append((step, updated))


async def test_a_step_without_any_pair_ends_the_run_and_says_how_to_go_on():
    cfg, _ = compose_stage([*ONLINE], stage="preference")
    sampling = Sampling()
    batches = PairBatches(cfg=cfg, run=sampling.run, reference=None, packer=None)
    job = OnlineJob(
        cfg=cfg, data=cfg.data.prompts(), sampling=sampling, policy=None, objective=None,
        batches=batches,
    )  # fmt: skip
    with pytest.raises(NothingToPrefer, match=r"in none of 3 groups .* raise rollout.group_size=8"):
        await job.step(StepRecord())
    assert sampling.noted == [(7, False)], "its samples are recorded all the same"


@pytest.fixture
def planned(tmp_path, tiny_model):
    def plan(*overrides):
        given = [f"model.path={tiny_model}", *ONLINE, *overrides]
        cfg, _ = compose_stage(given, stage="preference")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return plan


def test_who_exists_follows_from_the_loss_and_the_judges(planned, tiny_reward):
    names = [role.name for role in planned().roles]
    assert names == ["trainer", "reference", "generators", "verifiers"]
    plan = planned(
        "loss=simpo", f"+reward_models.taste.path={tiny_reward}", "examples_per_step=20",
        "data.size=50", "trainer.epochs=2",
    )  # fmt: skip
    assert [role.name for role in plan.roles] == ["trainer", "rewards", "generators", "verifiers"]
    assert plan.cfg.trainer.steps == 5, "50 prompts, 20 a step, twice"
    written = format_bytes(5 * 20 * 8 * response_bytes(8))
    assert f"all samples {written}" in " ".join(estimate(plan, gpu_bytes=None).sentences)


@pytest.fixture
def refused(tmp_path, tiny_model, monkeypatch, capsys):
    """Run the stage, which must be refused; returns what it said, on one line."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides):
        assert main(["preference", f"model.path={tiny_model}", *overrides]) == 2
        assert not list(tmp_path.iterdir())
        return " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss=kto"], "loss=kto learns from single judged completions"),
        (["rollout.group_size=1"], "rollout.group_size must be at least 2"),
        (["rl.max_staleness=1", "rl.on_overage=mask"], "rl.on_overage=mask leaves single tokens"),
        (["rl.on_overage=drop"], "rl.on_overage=drop has no effect on-policy"),
        (["verifier.weight=0"], "leaves nothing to learn from"),
        (["data.format=pair"], "data.format=pair has no effect with data.online=true"),
        (["data.columns.prompt=question"], "data.columns.* has no effect with data.online=true"),
        (["data.on_long=skip"], "data.on_long=skip has no effect with data.online=true"),
        (["data.workers=0"], "data.workers=0 has no effect with data.online=true"),
        (["evaluation.suites=[general]"], "data.heldout=suite:NAME"),
        (["evaluation.samples=2"], "would repeat the same response"),
        (["failures.idle_steps=3"], "set pairing.max_rounds"),
        (["failures.stuck_after_s=60"], "failures.stuck_after_s must be above"),
        (["trainer.max_tokens_per_micro_batch=16"], "a prompt and two responses"),
        (["checkpoint.best_metric=preference/heldout_loss"], "val-core/arithmetic/acc/mean@1"),
        (["generator.max_model_len=100000"], "generator.max_model_len must be at most"),
    ],
)
def test_what_cannot_work_online(refused, overrides, said):
    assert said in refused(*ONLINE, *overrides)


def test_nobody_judges(refused):
    words = refused("data.online=true", "data.train=arithmetic")
    assert "data.online=true needs somebody who judges" in words and "+reward_models.NAME" in words


def test_a_reward_model_judges_alone(tmp_path, tiny_model, tiny_reward, refused):
    """Rows have no answer, and nobody asks for one."""
    rows = tmp_path.parent / f"{tmp_path.name}.jsonl"
    rows.write_text('{"prompt": "Say something kind."}\n')
    taste = f"+reward_models.taste.path={tiny_reward}"
    common = [f"model.path={tiny_model}", f"data.train={rows}", "rollout.max_tokens=8", taste]
    for stage, options, part in (
        ("preference", ["data.online=true"], prepare),
        ("rl", ["~verifier"], prepare_rl),
    ):
        cfg, _ = compose_stage([*common, *options], stage=stage)
        plan = part(cfg, directory=RunDirectory(root=tmp_path / "run"))
        assert "verifiers" not in [role.name for role in plan.roles]
        assert [role.name for role in plan.roles][-2:] == ["rewards", "generators"]
    words = refused("data.online=true", *common[1:], "data.heldout=suite:general")
    assert "data.heldout" in words and "verifier.weight=0" in words
    words = refused("data.online=true", *common[1:], "verifier=math")  # negative control
    assert "answer" in words


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["verifier=math"], "verifier.* has no effect without data.online=true"),
        (["rollout.group_size=4"], "rollout.* has no effect without data.online=true"),
        (["rl.max_staleness=1"], "rl.* has no effect without data.online=true"),
        (["pairing.max_rounds=2"], "pairing.* has no effect without data.online=true"),
        (["+reward_models.taste.path=x"], "reward_models.* has no effect without"),
        (["data.system_prompt=Hi"], "data.system_prompt=Hi has no effect without data.online=true"),
        (["failures.idle_steps=3"], "failures.idle_steps=3 has no effect without"),
        (["generator.num=2"], "without evaluation.suites"),
    ],
)
def test_what_only_online_runs_have(refused, overrides, said):
    assert said in refused("data.train=suite:reasoning", *overrides)
