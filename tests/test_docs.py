"""Every command that README.md and the pages of docs/ print means something.

Those that start engines or clusters are run by tests/system/, tests/operations/ and CI; here
each is composed, or parsed, as its own program would.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlpost.cli.main import COMMANDS, main
from rlpost.config.compose import compose_stage
from rlpost.stages.registry import STAGES

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/adapters.md",
    "docs/data.md",
    "docs/distillation.md",
    "docs/evaluation.md",
    "docs/ladder.md",
    "docs/merging.md",
    "docs/optimizers.md",
    "docs/pipelines.md",
    "docs/preference.md",
    "docs/reward.md",
    "docs/running.md",
    "docs/serving.md",
    "docs/supervised.md",
    "docs/verifiers.md",
)
LAUNCHERS = ("launch/ray_job.sh", "launch/slurm/train.sbatch", "launch/slurm/sweep.sbatch")


def commands() -> list[str]:
    """Lines of the pages' bash blocks, without comments; continued lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.S):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if line and not line.startswith("#")]
    return sorted(set(found))


def staged(command: str) -> tuple[str, list[str]] | None:
    """Stage and overrides that ``command`` would run; None for another program."""
    words = shlex.split(command, comments=True)
    at = [i for i, w in enumerate(words) if w == "rlpost" or w.endswith(("/rlpost", *LAUNCHERS))]
    if not at:
        return None
    rest = words[at[0] + 1 :]
    while rest and rest[0] not in STAGES:
        rest = rest[1:]  # submit, plan and their own options
    return (rest[0], rest[1:]) if rest else None


STAGED = [each for each in commands() if staged(each)]


def test_the_pages_have_commands():
    assert len(STAGED) >= 10


@pytest.mark.parametrize("command", STAGED)
def test_overrides_compose(command):
    stage, overrides = staged(command)
    words = [each for each in overrides if "=" in each and not each.startswith("-")]
    plain = []
    for each in OverridesParser.create().parse_overrides(words):
        if each.is_sweep_override():  # its first member
            first = next(each.sweep_string_iterator())
            plain.append(f"{each.get_key_element()}={first}")
        elif not each.get_key_element().startswith(("hydra", "sweep")):
            plain.append(each.input_line)
    compose_stage(plain, stage=stage)


def test_the_places_that_orientation_names_exist():
    text = (ROOT / "docs/orientation.md").read_text()
    table = text[text.index("| question") :].split("\n\n")[0]
    places = set(re.findall(r"`([\w/]+(?:/|\.py))`", table)) - {"__init__.py"}
    assert len(places) > 15
    missing = [p for p in places if not any((ROOT / r / p).exists() for r in ("", "rlpost"))]
    assert not missing


@pytest.mark.parametrize("command", commands())
def test_programs_exist(command):
    words = shlex.split(command, comments=True)
    for word in words:
        if word in LAUNCHERS or word.startswith("launch/"):
            assert (ROOT / word).is_file(), command
        if word.startswith("benchmarks/"):
            assert (ROOT / word).is_file(), command
    if words and words[0].endswith("/rlpost"):
        assert words[1] in COMMANDS, command
    if words and words[0] == "make":
        target = words[1]
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_help(command, capsys):
    try:
        code = main([command, "--help"])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert not code and said.out and not said.err, said
