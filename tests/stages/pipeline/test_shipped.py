"""The pipelines that are shipped compose, every stage of them."""

import pytest

from rlpost.config.compose import compose_stage
from rlpost.config.search_path import config_dir
from rlpost.stages.pipeline.plan import prepare
from rlpost.stages.run_directory import RunDirectory

SHIPPED = sorted(path.stem for path in (config_dir() / "pipeline").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_it_composes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg, _ = compose_stage([f"experiment={name}"], stage="pipeline")
    plan = prepare(cfg, directory=RunDirectory.of(cfg.run))
    assert plan.spec.name == name == cfg.run.name
    assert not list(tmp_path.iterdir())
