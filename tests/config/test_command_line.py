"""Wrong words of a command line, by kind: exit 2, one paragraph, no traceback, nothing written."""

import dataclasses
import itertools
import subprocess
import sys
import typing

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.bounds import bound_of
from rlpost.cli.exit_code import exit_code
from rlpost.cli.main import main
from rlpost.config.command_line import read_command_line
from rlpost.config.compose import compose_stage
from rlpost.config.quoting import quoted
from rlpost.config.schema import RLConfig
from rlpost.errors import UserError

# Where numbers lie that no defaults list leads to.
CHOSEN = {"critic": ["algorithm=ppo", "critic.enabled=true"]}


def numbers_below(config, path=""):
    """(dotted path, bound, whether it is an integer) of every number of a configuration."""
    hints = typing.get_type_hints(config)
    for declared in dataclasses.fields(config):
        place, hint = f"{path}{declared.name}", hints[declared.name]
        if dataclasses.is_dataclass(hint):
            yield from numbers_below(hint, f"{place}.")
        elif (bound := bound_of(declared)) is not None and hint != list[int]:
            yield place, bound, int in (hint, *typing.get_args(hint))


NUMBERS = list(numbers_below(RLConfig))


def wrong_values(bound, *, whole):
    """Values that a number must refuse, by kind."""
    yield "too small", bound.low - 1
    yield "too large", 10**400 if whole else "1e300"
    yield "nan", "nan"
    yield "infinite", "-inf" if whole else "inf"
    yield "word", "many"
    yield "list", "[1]"
    yield "mapping", "{a: 1}"
    yield "truth", "true"
    yield "nothing", "''"
    yield "half", "1.5" if whole else "one"
    yield "reference", "${nowhere}"


def generated():
    """One wrong value of each number; every kind of wrongness occurs several times."""
    for index, (path, bound, whole) in enumerate(NUMBERS):
        kinds = list(wrong_values(bound, whole=whole))
        kind, value = kinds[index % len(kinds)]
        yield pytest.param([f"{path}={value}"], path, id=f"{path}-{kind}")


UNKNOWN = [f"{prefix}{key}=1" for prefix, key in itertools.product(
    ("", "+", "++"),
    ("trainer.lrr", "rollouts.group_size", "lossy", "loss.clip_lo", "algorithm.kl.koefficient",
     "reward_models.rm.pth", "a.b.c.d"),
)]  # fmt: skip

WORDS = {
    "experiment=null": "experiment=null chooses nothing; leave it out",
    "algorithm=null": "algorithm=null chooses nothing",
    "verifier=null": "one of exact, format, function, math, names, numeric",
    "loss=null": "loss=null chooses nothing",
    "algorithm/corrections=null": "chooses nothing",
    "loss=true": "loss must be one of",
    "loss=3": "loss must be one of",
    "algorithm/corrections=[tis,{a: 1}]": "algorithm/corrections must be one of",
    "experiment=../x": "experiment must be one of",
    "experiment=/etc/passwd": "experiment must be one of",
    "loss=": "loss must be one of",
    "loss=clipp": "did you mean clip?",
    "verifier=[math,numeric]": "verifier",
    "seed=null": "seed cannot be null",
    "trainer=null": "trainer cannot be null",
    "trainer=3": "trainer holds options of its own",
    "trainer=[]": "trainer holds options of its own",
    "trainer.lr=[1]": "trainer.lr takes a single value",
    "trainer.lr.x=1": "trainer.lr takes a single value",
    "trainer.dtype=[float32]": "trainer.dtype takes a single value",
    "rollout={n: 8}": "rollout.n is not an option of rlpost; it is called rollout.group_size",
    "rollout.stop=foo": "rollout.stop must be a list",
    "rollout.stop={a: 1}": "rollout.stop must be a list",
    "rollout.stop=[[a]]": "rollout.stop[0] must be a single value",
    "rollout.stop_token_ids=[[1]]": "rollout.stop_token_ids[0] must be a single value",
    "verifier.env=[{a: 1}]": "verifier.env[0] must be a single value",
    "data=[]": "data holds options of its own",
    "data.train=[]": "data.train takes a single value",
    "data.train=null": "data.train",
    "data.train.path=x": "data.train takes a single value",
    "data.train=": "data.train: no data source is called ''",
    "resume=[]": "resume",
    "reward_models=null": "reward_models",
    "+reward_models.rm=3": "reward_models.rm must hold options, got 3",
    "reward_models.rm.path=x": "+reward_models.rm.path=VALUE",
    "algorithm.corrections=[tis]": "algorithm.corrections",
    "+algorithm.corrections.mine.kind=tis": "algorithm/corrections=[NAME]",
    "algorithm.corrections.tis.high=3": "give algorithm/corrections=[tis]",
    "loss.keep_above=1": "is not an option of what is chosen here, but of loss=nll",
    "verifier.kind=numeric": "verifier.kind=numeric does not change what was chosen, math",
    "loss.kind=gspo": "loss.kind=gspo does not change what was chosen, clip",
    "algorithm.advantage=rloo": "give algorithm/advantage=NAME",
    "+loss.clip_low=0.1": "loss.clip_low has a value already; give loss.clip_low=VALUE, without +",
    "+verifier=numeric": "verifier is chosen twice",
    "verifier@elsewhere=math": "give verifier=NAME, without @",
    "+verifier@elsewhere=math": "elsewhere is not an option",
    "+loss@trainer=clip": "loss has one place in the configuration; give loss=NAME, without @",
    "task=arithmetic": "write +task=NAME",
    "~trainer": "~trainer cannot be removed",
    "~trainer.lr": "~trainer.lr cannot be removed",
    "~model": "~model cannot be removed",
    "~run": "~run cannot be removed",
    "~verifier": "verifier is chosen by name, got null",
    "~loss": "loss is chosen by name",
    "~nothing": "nothing",
    "trainer.lr=1e-5,2e-5": "add -m",
    "run.name=a#b": "type 'run.name=\"a#b\"'",
    "data.train=/x/(1).jsonl": "type 'data.train=\"/x/(1).jsonl\"'",
    "model.path=~/x": "type 'model.path=\"~/x\"'",
    "data.train='half": "must be quoted",
    "data.train=[a,b": "must be quoted",
    "data.train={a": "must be quoted",
    "data.train=a=b": "type 'data.train=\"a=b\"'",
    "trainer.lr": "is not of the form key=value",
    "=": "is not of the form key=value",
    "=1": "is not of the form key=value",
    "": "is not of the form key=value",
    "trainer..lr=1": "'trainer..lr' is no name of an option",
    "trainer.lr =1": "'trainer.lr ' is no name of an option",
    "data.train=${missing}": "data.train=${missing} cannot be resolved",
    "data.train=${run.dir": "must be quoted",
    "data.train=${oc.env:NOT_SET_HERE}": "NOT_SET_HERE",
    "data.train=${oc.env:HF_TOKEN}": "would write a secret into config.yaml",
    "run.name=${run.name}": "interpolation",
    "loss=???": "loss",
    "data.train=???": "data.train",
    "trainer=???": "trainer",
    "model.path=\udcff": "is not UTF-8 text",
    "hydra.run.dir=x": "run.dir and run.name say where a run lives",
    "hydra.job.chdir=true": "has no place here",
    "hydra.output_subdir=x": "has no place here",
    "hydra.verbose=true": "has no place here",
    "hydra.sweeper.params.seed=1": "hydra.sweeper.params.seed is not an option",
    "+hydra.sweeper.params.trainer.lr=1": "hydra.sweeper.params.trainer takes a single value",
    "hydra/launcher=nope": "hydra/launcher must be one of",
    "trainer.lr=range(1,10,0)": "holds no value",
    "trainer.lr=range(0.1,1,0.0)": "holds no value",
    "seed=range(3,1)": "holds no value",
    "seed=range(0,inf)": "has more than 1000000 values",
    "seed=range(0,10000000)": "has more than 1000000 values",
    "loss=glob(zzz*)": "matches no name",
    "seed=glob(*)": "matches no name",
    "--cfg": "expected one argument",
    "--info=nothing": "invalid choice",
    "--multirun=1": "ignored explicit argument",
    "--trainer.lr=1": "type trainer.lr=1",
    "--nope": "nope is not an option",
    "--experimental-rerun=x.pickle": "is not an option",
}  # fmt: skip


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run what ``rlpost rl`` runs before it starts anything; returns what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> str:
        code = exit_code(lambda: compose_stage(overrides, stage="rl") and 0, stage="rl")
        text = capsys.readouterr().err
        assert code == 2, text
        assert "Traceback" not in text
        assert text.startswith("error: ") and "\n\n" not in text.strip()
        assert list(tmp_path.iterdir()) == []
        return " ".join(text.split())

    return run


@pytest.mark.parametrize(("overrides", "path"), generated())
def test_a_wrong_number_names_its_option(refused, overrides, path):
    extra = CHOSEN.get(path.partition(".")[0], [])
    assert path in refused(*extra, *overrides)


def test_numbers_of_a_usual_size_are_accepted(tmp_path, monkeypatch):
    """The control: the same walk accepts what is not wrong."""
    monkeypatch.chdir(tmp_path)
    cfg, resolved = compose_stage(["trainer.lr=1e-5", "+reward_models.rm.path=x"], stage="rl")
    assert cfg.trainer.lr == 1e-5 and resolved["reward_models"]["rm"]["path"] == "x"
    assert cfg.run.name == "rl"


@pytest.mark.parametrize("override", UNKNOWN)
def test_an_unknown_option_is_refused_however_it_is_written(refused, override):
    text = refused(override)
    key = override.lstrip("+").partition("=")[0]
    assert f"{key} is not an option" in text or f"{key.split('.')[0]} is not an option" in text


@pytest.mark.parametrize(("override", "message"), WORDS.items(), ids=map(repr, WORDS))
def test_wrong_words_are_answered(refused, override, message):
    assert message in refused(override)


def test_an_unknown_key_of_a_yaml_is_named_with_its_file(refused, tmp_path, monkeypatch):
    from rlpost.config import compose

    root = tmp_path.parent / f"{tmp_path.name}-configs"
    (root / "experiment").mkdir(parents=True)
    (root / "experiment" / "mine.yaml").write_text("# @package _global_\ntrainer:\n  lrr: 1\n")
    shipped = compose.config_dir()
    for path in shipped.iterdir():
        if path.name != "experiment":
            (root / path.name).symlink_to(path)
    monkeypatch.setattr(compose, "config_dir", lambda: root)
    text = refused("experiment=mine")
    assert "experiment/mine" in text and "trainer.lrr is not an option" in text


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_the_quoting_that_is_advised_gives_the_value(value):
    for mark in "'\"":
        parsed = OverridesParser.create().parse_override(f"key={quoted(value, mark=mark)}")
        assert parsed.value() == value


@pytest.mark.parametrize(
    "words",
    [
        ["rl", "--cfg", "job", "+trainer.lrr=1"],
        ["rl", "--cfg", "job", "trainer.lr=2"],
        ["rl", "-m", "trainer.lr=2,3"],
        ["rl", "experiment=null"],
        ["rl", "trainer.lr=nan"],
        ["rl", "run.name=a#b"],
        ["rl", "--learning_rate", "1e-5"],
        ["rft", "loss=null"],
        ["plan", "rl", "+trainer.lrr=1"],
        ["submit", "rl", "hydra.run.dir=x"],
    ],
    ids=" ".join,
)
def test_every_door_says_so_too(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["rl", "+trainer.lrr=1"], ["rl", "-m", "trainer.lrr=1,2"]])
def test_the_real_command_says_so_too(tmp_path, words):
    done = subprocess.run(
        [sys.executable, "-m", "rlpost.cli.main", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "recipe", "theirs"),
    [("preference", "quickstart", "rl, rft"), ("reward", "preference_dpo", "preference")],
)
def test_a_recipe_of_another_stage_is_refused_by_its_name(stage, recipe, theirs):
    with pytest.raises(UserError, match=f"experiment={recipe} is for rlpost {theirs}: "):
        read_command_line([f"experiment={recipe}"], stage=stage)
