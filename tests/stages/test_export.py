"""A failed export loses nothing, and says so."""

from types import SimpleNamespace

import pytest

from rlpost.errors import GroupLost, RunFailed
from rlpost.stages.export import export_model
from rlpost.stages.results import ExportConfig
from rlpost.stages.run_directory import RunDirectory


class Trainer:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def export(self, directory):
        (directory / "model.safetensors").write_text("half")
        if self.error is not None:
            raise self.error


async def export(tmp_path, error=None, step=4):
    run = SimpleNamespace(
        step=step,
        exported_step=None,
        config_hash="c0ffee",
        cost=SimpleNamespace(metrics=lambda: {"cost/wall_s": 3.0}),
        cfg=SimpleNamespace(export=ExportConfig()),
        directory=RunDirectory(root=tmp_path),
        store=SimpleNamespace(latest=lambda hashes: tmp_path / "checkpoints" / "step_000004"),
    )
    await export_model(run, Trainer(error), base="org/base", stage="rl")


@pytest.mark.parametrize("error", [ValueError("GenerationConfig is invalid"), OSError(28, "full")])
async def test_a_failed_export_says_where_the_result_is(tmp_path, error):
    await export(tmp_path, step=3)
    with pytest.raises(RunFailed, match=r"step 4 could not be exported.*same command") as failed:
        await export(tmp_path, error)
    assert "step_000004" in str(failed.value) and str(error) in str(failed.value)
    assert '"step": 3' in (tmp_path / "export" / "rlpost.json").read_text()  # the older one stays


async def test_a_lost_trainer_is_not_a_failed_export(tmp_path):
    """The loop replaces it and exports again."""
    with pytest.raises(GroupLost):
        await export(tmp_path, GroupLost("rank 0 is gone"))
