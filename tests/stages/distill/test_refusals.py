"""What cannot work ends with exit code 2, the place, the rule and a way out, and leaves nothing."""

import json
import shutil

import numpy as np
import pytest
from supervised_runs import write_rows
from transformers import AutoTokenizer

from rlpost.cli.main import main
from rlpost.data.example import Example
from rlpost.models.tiny import build_tiny_llama
from rlpost.models.vocabulary import vocabulary_fingerprint
from rlpost.stages.distill.store import Identity, StoredTokens, StoreWriter

ROW = {"prompt": "What is 2 + 2?", "completion": "4, as always."}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Another model with the tokenizer of the student."""
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "teacher", seed=7)


@pytest.fixture
def refused(tmp_path, tiny_model, teacher, monkeypatch, capsys):
    """Run the stage, which must be refused; returns what it said, on one line."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path / "cache"))

    def run(*overrides, teacher=teacher, rows=(ROW,)):
        write_rows(place / "train.jsonl", rows)
        before = sorted(place.iterdir())
        words = ["distill", f"model.path={tiny_model}", "data.workers=0", "data.train=train.jsonl"]
        words += [] if teacher is None else [f"teacher.path={teacher}"]
        assert main([*words, *overrides]) == 2
        assert sorted(place.iterdir()) == before
        return " ".join(capsys.readouterr().err.split())

    return run


def test_a_teacher_must_be_named_and_be_another_model(refused, tiny_model):
    assert "is the student itself" in refused(teacher=tiny_model)
    assert "teacher.path=runs/NAME/export" in refused(teacher=None)
    assert "teacher.path" in refused(teacher="no/such/model")


def test_a_teacher_with_another_tokenizer(refused, tmp_path, tiny_model):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    tokens = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    said = refused(teacher=other)
    assert "teacher.path" in said and "must have the tokenizer of the policy" in said
    assert "use a model of the same family" in said


def test_a_teacher_of_another_kind(refused, tiny_reward):
    said = refused(teacher=tiny_reward)
    assert "teacher.path" in said and "causal" in said, said


def test_a_teacher_without_a_tokenizer(refused, tmp_path, tiny_model):
    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    assert "teacher.path" in (said := refused(teacher=bare)) and "no tokenizer" in said


def test_a_row_that_the_teacher_cannot_read(refused, tmp_path):
    short = build_tiny_llama(tmp_path / "short", max_positions=32)
    said = refused(teacher=short)
    assert "reads at most 32 tokens" in said and "data.on_long=skip" in said


DIAGNOSED = ("adapter=lora", "adapter.diagnose_every=1")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["distill.beta=1.5"], "0 is the forward KL, 1 the reverse KL"),
        (["distill.beta=nan"], "distill.beta"),
        (["distill.temperature=0"], "distill.temperature"),
        (["loss=nll"], "loss"),
        (["data.on_policy_fraction=0.5"], "has no effect without data.online=true"),
        (["cluster.offload_idle=true"], "cluster.offload_idle=true has no effect"),
        (["trainer.share_prompts=false"], "trainer.share_prompts=false has no effect"),
        (["evaluation.every=3"], "no rows are held out"),
        (["teacher.zero_stage=2"], "teacher.zero_stage must be 0 or 3, got 2"),
        (
            ["teacher.zero_stage=3", "trainer.num_ranks=2", *DIAGNOSED],
            "which cannot ask alone a teacher that teacher.zero_stage=3 divides",
        ),
    ],
)
def test_options_that_cannot_work(refused, overrides, said):
    assert said in refused(*overrides)


ONLINE = ("data.online=true", "data.train=arithmetic", "rollout.max_tokens=8")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.train_on=last"], "data.train_on=last has no effect with data.online=true"),
        (["data.format=pair"], "data.format=pair has no effect with data.online=true"),
        (["rewards.rule=first"], "rewards.* has no effect in rlpost distill"),
        (["+reward_models.taste.path=x"], "reward_models.* has no effect in rlpost distill"),
        (["rl.on_overage=drop"], "rl.on_overage=drop has no effect on-policy"),
        (["rl.max_staleness=1", "rl.on_overage=mask"], "rl.on_overage=mask leaves single tokens"),
        (["failures.idle_steps=3"], "every step with a sample updates the student"),
        (["trainer.max_tokens_per_micro_batch=8"], "must hold a prompt and a response"),
        (["evaluation.suites=[general]"], "data.heldout=suite:NAME"),
        (["rollout.on_verifier_error=group"], "rollout.on_verifier_error=group has no effect"),
        (["data.workers=0"], "data.workers=0 has no effect with data.online=true"),
    ],
)
def test_options_that_cannot_work_online(
    tmp_path, tiny_model, teacher, monkeypatch, capsys, overrides, said
):
    monkeypatch.chdir(tmp_path)
    words = ["distill", f"model.path={tiny_model}", f"teacher.path={teacher}", *ONLINE]
    assert main([*words, *overrides]) == 2
    assert not list(tmp_path.iterdir())
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_prompt_with_its_answer_that_the_teacher_cannot_read(
    tmp_path, tiny_model, monkeypatch, capsys
):
    short = build_tiny_llama(tmp_path / "short", max_positions=32)
    monkeypatch.chdir(tmp_path)
    assert main(["distill", f"model.path={tiny_model}", f"teacher.path={short}", *ONLINE]) == 2
    assert "reads at most 32 tokens" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("option", ["rollout.group_size=4", "rl.max_staleness=1", "verifier=math"])
def test_options_of_samples_have_no_effect_on_given_responses(refused, option):
    assert "has no effect without data.online=true" in refused(option)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teacher.store=none_there"], "there is no store in none_there"),
        (["teacher.top_k=0"], "teacher.top_k"),
        (["teacher.store=x", "teacher.zero_stage=3"], "no teacher is in memory"),
    ],
)
def test_a_store_that_is_not_there(refused, overrides, said):
    assert said in refused(*overrides, teacher=None)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teacher.store=place"], "is a teacher in memory and teacher.store=place one on disk"),
        (["teacher.top_k=8"], "needs both"),
        (["teacher.store=place", "teacher.top_k=260"], "must be at most 259"),
        (["teacher.store=train.jsonl", "teacher.top_k=8"], "holds no readable store"),
    ],
)
def test_a_store_and_a_teacher_that_contradict_each_other(refused, overrides, said):
    assert said in refused(*overrides)


@pytest.fixture
def stored(tmp_path, tiny_model):
    """Return what writes a store of the tokenizer without any row, made as the arguments say."""

    def write(name, **other):
        known = AutoTokenizer.from_pretrained(tiny_model).get_vocab()
        identity = {"teacher": "t", "top_k": 8, "temperature": 1.0, **other}
        identity = {"vocabulary": vocabulary_fingerprint(known), **identity}
        place = tmp_path / name
        with StoreWriter(place, identity=Identity(**identity), path="a/teacher") as writer:
            some = Example(
                ids=np.array([1, 2], np.int32), trained=np.array([False, True]), address="x"
            )
            writer.add(
                [some], [StoredTokens(np.zeros((1, 8), np.int32), np.zeros((1, 9), np.float32))]
            )
            writer.commit()
        return place

    return write


def test_a_store_of_other_rows_tokens_or_temperatures(refused, stored, teacher):
    said = refused(f"teacher.store={stored('rows')}", teacher=None)
    assert "has nothing of train.jsonl:1" in said
    said = refused(f"teacher.store={stored('tokens', vocabulary='v')}", teacher=None)
    assert "another tokenizer than the student's, of a/teacher" in said
    warm = stored("warm", temperature=2.0)
    assert "distill.temperature=1 must be the one" in refused(f"teacher.store={warm}", teacher=None)
    said = refused(f"teacher.store={stored('other')}", "teacher.top_k=8")
    assert "holds the 8 most likely tokens of a/teacher" in said
