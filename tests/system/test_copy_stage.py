"""A stage that nothing in rlpost knows learns, saves, resumes and exports."""

import pytest
from cli_runs import metrics
from copy_stage import COPY, CopyConfig
from supervised_runs import cut_back, went_on

from rlpost.config.schema import RunConfig
from rlpost.stages.driver import run_stage

STEPS = 6
MEASURED = ("actor/nll", "actor/grad_norm", "val-core/copy/nll")


def run(place, model, name):
    cfg = CopyConfig(model=str(model), run=RunConfig(name=name, dir=str(place)))
    outcome = run_stage(COPY, cfg, {"seed": cfg.seed})
    assert outcome.exit_code == 0, outcome.message
    rows = metrics(place / name)
    return [{key: row[key] for key in ("step", *MEASURED) if key in row} for row in rows]


@pytest.mark.timeout(600)
def test_it_learns_and_a_resumed_run_is_the_same_run(tmp_path, tiny_untied_model):
    whole = run(tmp_path, tiny_untied_model, "whole")
    assert [row["step"] for row in whole] == list(range(STEPS + 1))
    before, *_, after = [row["val-core/copy/nll"] for row in whole if "val-core/copy/nll" in row]
    assert after < before / 2
    losses = [row["actor/nll"] for row in whole if "actor/nll" in row]
    assert len(losses) == STEPS and losses[-1] < losses[0] / 2

    cut = cut_back(tmp_path / "whole", "cut", to=2)
    assert run(tmp_path, tiny_untied_model, "cut") == whole
    assert went_on(cut, after=2) and (cut / "export" / "config.json").is_file()
