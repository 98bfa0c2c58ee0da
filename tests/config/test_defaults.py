"""Every option has one default, whoever the options are chosen from."""

import pytest

from rlpost.config.compose import compose_stage
from rlpost.config.defaults import default_values
from rlpost.config.stage_yaml import flat
from rlpost.errors import UserError
from rlpost.stages.registry import STAGES
from rlpost.stages.resume_point import resume_point_of
from rlpost.stages.run_directory import RunDirectory

NEEDED = {
    "rl": ["experiment=quickstart"],
    "rft": ["data.train=arithmetic"],
    "evaluate": ["suites=[format]"],
    "reward": ["data.train=pairs:consistency"],
    "preference": ["data.train=pairs:lowercase"],
    "distill": ["data.train=suite:general", "teacher.path=x"],
    "merge": ["adapter=x"],
    "pipeline": ["experiment=r1_small"],
    "serve": ["serve.port=8001"],
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_but_choices_has_a_default_as_it_is_written(stage):
    cfg, resolved = compose_stage(NEEDED.get(stage, ["data.train=suite:general"]), stage=stage)
    defaults = default_values(cfg)
    written = flat(resolved)
    without = {path for path in written if path not in defaults}
    assert all(path.endswith(".kind") or ".NAME" in path for path in without), without
    kinds = {type(value) for value in defaults.values()}
    assert kinds <= {int, float, str, bool, list, dict, type(None)}, kinds


def test_what_was_chosen_has_the_defaults_of_its_variant():
    options = ["data.train=pairs:lowercase", "loss=ipo", "loss.beta=0.3", "reference.mode=live"]
    cfg, _ = compose_stage(options, stage="preference")
    defaults = default_values(cfg)
    assert defaults["loss.beta"] == 0.1 and defaults["reference.mode"] == "precomputed"
    assert defaults["trainer.lr"] == 1e-6  # the stage's own trainer


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_a_run_of_an_earlier_version_goes_on(tmp_path, stage):
    """Its config.yaml lacks an option, and another choice is still another run."""
    data = ["data.train=suite:general"] if stage == "sft" else ["experiment=quickstart"]
    here = [*data, f"run.dir={tmp_path}", "run.name=old"]
    directory = RunDirectory(root=tmp_path / "old")
    cfg, resolved = compose_stage(here, stage=stage)
    del resolved["trainer"]["weight_decay"], resolved["loss"]["kind"], resolved["optimizer"]
    directory.write_config(resolved)
    directory.metrics.write_text('{"step": 0, "time_s": 0}\n')
    with pytest.raises(UserError, match=r"loss\.kind \(was None"):  # a choice has no default
        resume_point_of(*compose_stage(here, stage=stage), stage=stage)
    resolved["loss"]["kind"] = cfg.loss.kind
    directory.write_config(resolved)
    assert resume_point_of(*compose_stage(here, stage=stage), stage=stage) is None
    others = [*here, "optimizer=muon", "trainer.zero_stage=0"]
    with pytest.raises(UserError, match=r"optimizer\.kind \(was 'adamw', now 'muon'\)"):
        resume_point_of(*compose_stage(others, stage=stage), stage=stage)
    changed = compose_stage([*here, "trainer.weight_decay=0.5"], stage=stage)
    with pytest.raises(UserError, match=r"trainer\.weight_decay \(was 0\.0.*, now 0\.5"):
        resume_point_of(*changed, stage=stage)
