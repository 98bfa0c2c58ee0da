"""The list of stages: every part that it names is there, and nothing is imported for the list."""

import dataclasses
import subprocess
import sys
from dataclasses import replace

import pytest

from rlpost.config.search_path import config_dir
from rlpost.stages.registry import STAGES

PARTS = ("check", "plan", "drive")


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_part_of_a_stage_is_there(stage):
    assert dataclasses.is_dataclass(stage.part("config"))
    assert all(callable(stage.part(name)) for name in PARTS)
    assert stage.boot is None or callable(stage.part("boot"))
    assert (config_dir() / f"{stage.name}.yaml").is_file()
    assert STAGES[stage.name] is stage


def test_a_part_that_is_not_there_is_our_bug():
    wrong = replace(STAGES["rl"], boot="rlpost.stages.rl.boot:no_such_function")
    with pytest.raises(AttributeError):
        wrong.part("boot")


def test_every_stage_with_a_configuration_is_listed():
    assert {path.stem for path in config_dir().glob("*.yaml")} == set(STAGES)


def test_the_list_imports_none_of_the_parts():
    code = (
        "import sys, rlpost.stages.registry\n"
        "print(*[name for name in sys.modules if name.startswith('rlpost.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"rlpost.stages", "rlpost.stages.registry"}
