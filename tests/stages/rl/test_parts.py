"""What surrounds the loop and needs no process: the probe of a push, and a failed export."""

from types import SimpleNamespace

import pytest

from rlpost.data.dataset import PromptDataset
from rlpost.errors import GroupLost, RunFailed
from rlpost.stages.rl import parts as module
from rlpost.stages.rl.parts import RLParts
from rlpost.stages.run_directory import RunDirectory
from rlpost.types import Prompt
from rlpost.weights.publisher import WeightsConfig


def prompts(*lengths: int) -> PromptDataset:
    rows = [
        Prompt(uid=f"0:{i}", token_ids=tuple(range(10, 10 + length)), text="")
        for i, length in enumerate(lengths)
    ]
    return PromptDataset(rows, name="x", skipped=[])


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((30, 5, 9), [list(range(16, 40)), [10, 11, 12, 13, 14]]),  # the end of a long one
        ((1, 2), [[10] * 24, [10, 11]]),
        ((1,), [[10] * 24]),
    ],
)
def test_a_probe_has_at_least_two_tokens(lengths, expected):
    """With one token there is no log-prob to compare, and the first push failed."""
    assert module._probe(prompts(*lengths), WeightsConfig()) == expected


class Trainer:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def export(self, directory):
        (directory / "model.safetensors").write_text("half")
        if self.error is not None:
            raise self.error


def parts(tmp_path, error):
    """The three things that an export needs."""
    return SimpleNamespace(
        trainer=Trainer(error),
        directory=RunDirectory(root=tmp_path),
        store=SimpleNamespace(latest=lambda hashes: tmp_path / "checkpoints" / "step_000004"),
        cfg=SimpleNamespace(
            model=SimpleNamespace(path="org/base"), data=SimpleNamespace(system_prompt=None)
        ),
    )


async def export(tmp_path, error=None, step=4):
    run = parts(tmp_path, error)
    run._write_export = lambda step: RLParts._write_export(run, step)
    await RLParts.export(run, step)


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
