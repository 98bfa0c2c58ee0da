"""A stage with a configuration of its own composes by the same door, without a change elsewhere."""

import pytest
from copy_stage import COPY, CopyConfig

from rlpost.config.compose import compose_stage
from rlpost.config.groups import FILES
from rlpost.config.recipes import fitting
from rlpost.config.search_path import config_dir
from rlpost.errors import UserError
from rlpost.stages.registry import STAGES


@pytest.fixture
def composed(tmp_path, monkeypatch):
    """Compose the stage's command line."""
    monkeypatch.setitem(STAGES, COPY.name, COPY)
    (tmp_path / "copy.yaml").write_text("defaults:\n  - copy_schema\n  - _self_\n")

    def compose(*overrides: str):
        return compose_stage([f"--config-path={tmp_path}", *overrides], stage=COPY.name)

    return compose


def test_its_options_are_its_own(composed):
    cfg, resolved = composed("model=tiny", "examples_per_step=3", "trainer.steps=9")
    assert isinstance(cfg, CopyConfig)
    assert (cfg.model, cfg.examples_per_step, cfg.trainer.steps) == ("tiny", 3, 9)
    assert (cfg.run.name, resolved["run"]["name"]) == ("copy", "copy")


@pytest.mark.parametrize(
    ("override", "words"),
    [("trainer.steps=0", "trainer.steps must be"), ("+rollout.group_size=3", "rollout")],
)
def test_what_is_no_value_or_no_option_of_it_is_refused(composed, override, words):
    with pytest.raises(UserError, match=words):
        composed("model=tiny", override)


def test_it_is_offered_only_files_that_it_can_use(monkeypatch):
    monkeypatch.setitem(STAGES, COPY.name, COPY)
    assert {group: set(fitting(group, stage="copy")) for group in FILES} == {
        "experiment": set(),
        "algorithm": set(),
        "task": set(),
        "cluster": {"local_cpu", "two_nodes"},
        "sweep": {"optuna"},
    }
    for group in FILES:
        files = {path.stem for path in (config_dir() / group).glob("*.yaml")}
        assert set().union(*(fitting(group, stage=stage) for stage in STAGES)) == files
