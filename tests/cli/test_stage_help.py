"""`rlpost <stage> --help`: what it shows is what the stage has, and it fits."""

import subprocess
import sys
from dataclasses import replace

import pytest

from rlpost.cli import stage_help
from rlpost.cli.main import main
from rlpost.config.groups import FILES, registries
from rlpost.config.options import known_keys, summary
from rlpost.config.search_path import config_dir
from rlpost.config.stage_yaml import yaml_defaults
from rlpost.stages.registry import STAGES

PIPE = stage_help._Layout(width=None, color=False)
each_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)


def pages(stage):
    return stage_help._pages(stage, *yaml_defaults(stage.name))


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "rlpost.cli.main", *words],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@each_stage
def test_the_values_are_those_that_hydra_composes(stage):
    composed = stage_help._pages(stage, *stage_help._as_composed(stage, ["run.dir=runs"], []))
    plain = pages(stage)
    shown = [list(PIPE.page(stage, each, [])) for each in (plain, composed)]
    assert shown[0] == shown[1]
    assert any("run.dir=runs" in line for line in shown[0])


@pytest.mark.parametrize(
    ("stage", "recipe"),
    [
        ("rl", "quickstart"),
        ("rft", "rft"),
        ("sft", "sft_chat"),
        ("pretrain", "pretrain_domain"),
        ("evaluate", None),
    ],
)
def test_a_stage_names_a_recipe_of_its_own(stage, recipe):
    text = "\n".join(PIPE.page(STAGES[stage], pages(STAGES[stage]), []))
    assert (f"`rlpost {stage} experiment={recipe} --help`" in text) is (recipe is not None)
    assert ("experiment=" in text) is (recipe is not None)


def test_a_stage_shows_its_own_values():
    text = "\n".join(PIPE.page(STAGES["rft"], pages(STAGES["rft"]), []))
    assert "selection.min_reward=1.0" in text and "loss=nll" in text
    assert "algorithm/advantage=constant" in text


@each_stage
def test_every_option_is_shown_once(stage):
    shown = [each.path for section in pages(stage).sections for each in section.options]
    assert len(shown) == len(set(shown))
    _, chosen = yaml_defaults(stage.name)
    hidden = {key for key in known_keys(stage.name) if key.endswith(".kind")}
    for group, registry in registries(stage.name).items():
        names = chosen[group]
        chosen_paths = {each.path for s in pages(stage).sections for each in s.options if s.group}
        below = group.replace("/", ".")
        hidden |= {
            k for k in known_keys(stage.name) if k.startswith(below) and k not in chosen_paths
        }
        assert not names or names in {entry.name for entry in registry}
    assert set(known_keys(stage.name)) - hidden <= set(shown)


@each_stage
@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal_and_a_pipe_gets_one_an_option(stage, width):
    layout = replace(PIPE, width=width)
    for line in layout.page(stage, pages(stage), []):
        assert len(line) <= width or " " not in line.strip(), line
    piped = list(PIPE.page(stage, pages(stage), []))
    for line in piped:
        assert "\x1b" not in line and line == line.rstrip()
    assert len([line for line in piped if line.startswith("  run.name=")]) == 1


def test_colors_are_for_terminals():
    colored = replace(PIPE, width=80, color=True)
    assert any("\x1b[1m" in line for line in colored.page(STAGES["rl"], pages(STAGES["rl"]), []))


def test_a_word_narrows_what_is_shown(capsys):
    assert main(["rl", "--help", "trainer.lr"]) == 0
    line, *rest = [each for each in capsys.readouterr().out.splitlines() if each.startswith("  ")]
    assert line.split() == ["trainer.lr=1e-06", *["learning", "rate", "(float", "in", "(0,", "1])"]]
    assert rest == []
    assert main(["rl", "algorithm.kl", "--help"]) == 0
    out = capsys.readouterr().out
    assert "algorithm.kl.adaptive.target" in out and "algorithm.epochs" not in out
    assert main(["rl", "--help", "experiment", "loss"]) == 0
    out = capsys.readouterr().out
    assert "quickstart" in out and "gspo" in out and "trainer" not in out.replace("trains", "")


def test_overrides_show_what_they_lead_to(capsys):
    words = ["-m", "loss=gspo", "algorithm/corrections=[tis]", "trainer.lr=1e-5", "seed=1,2"]
    assert main(["rl", *words, "--help", "loss", "algorithm", "trainer.lr"]) == 0
    out = capsys.readouterr().out
    assert "loss.clip_low=0.0003" in out and "trainer.lr=1e-05" in out
    assert "algorithm/corrections=[tis]" in out and "algorithm.corrections.tis.high=2.0" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help", "trainr"], "did you mean trainer?"),
        (["--help", "lr"], "did you mean"),
        (["--help", "qqqq"], "there is no such section or option."),
        (["--help", "trainer.lrr=1"], "did you mean trainer.lr?"),
        (["--help", "loss=gspoo"], "did you mean gspo?"),
    ],
)
def test_a_word_that_means_nothing_is_refused(words, said, capsys):
    assert main(["rl", *words]) == 2
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.split()) and captured.out == ""


def test_help_loads_neither_torch_nor_hydra_and_leaves_no_stand_in():
    code = (
        "import sys; from rlpost.cli.main import main; main(['rl', '--help'])\n"
        "heavy = {'torch', 'numpy', 'hydra', 'ray', 'transformers', 'vllm', 'deepspeed', 'rich'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))\n"
        "import torch, rlpost.algorithms.losses.clipped as clipped\n"
        "print('torch:', clipped.torch is torch, isinstance(torch.ones(1), torch.Tensor))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, loaded, found = done.stdout.splitlines()
    assert (loaded, found) == ("loaded:", "torch: True True")
    import torch  # with the real torch, which this process has now, it says the same

    assert text == list(PIPE.page(STAGES["rl"], pages(STAGES["rl"]), []))
    assert torch is sys.modules["torch"]


def test_a_reader_that_leaves_early_is_no_failure():
    words = [sys.executable, "-m", "rlpost.cli.main", "rl", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_every_group_of_files_is_listed():
    folders = {path.name for path in config_dir().iterdir() if path.is_dir()}
    assert folders == {*FILES, "pipeline"}  # whose files are no options: pipeline.path names them


def test_every_variant_has_a_line():
    for stage in STAGES:
        for registry in registries(stage).values():
            for entry in registry:
                assert 10 < len(summary(entry.config)) <= 100, entry.name
