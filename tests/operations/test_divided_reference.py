"""A reference that two ranks divide, one of which is killed: the run is that with a whole one."""

import psutil
import pytest
from cli_runs import metrics, wait_for_step
from supervised_runs import completed, measured, start, write_rows

pytestmark = pytest.mark.timeout(600)
STEPS = 12
MEASURED = ("step", "sft/loss", "sft/kl", "sft/grad_norm")


def run(place, model, name, *overrides):
    return start(
        place,
        "sft",
        model,
        name,
        "data.train=rows.jsonl",
        "kl.coefficient=0.5",
        f"trainer.steps={STEPS}",
        "trainer.max_tokens_per_micro_batch=64",
        "examples_per_step=4",
        "checkpoint.every=1000",
        *overrides,
    )


def ranks_of(process) -> list[psutil.Process]:
    """The processes of the reference."""
    family = psutil.Process(process.pid).children(recursive=True)
    return [each for each in family if each.cmdline()[:1] and "DividedRank" in each.cmdline()[0]]


def test_a_killed_rank_changes_no_number(tmp_path, tiny_model):
    rows = ({"prompt": f"{n} + {n} = ", "completion": str(2 * n)} for n in range(40))
    write_rows(tmp_path / "rows.jsonl", rows)
    completed(run(tmp_path, tiny_model, "whole"))
    divided = ("reference.num_ranks=2", "reference.zero_stage=3", "cluster.offload_idle=true")
    process = run(tmp_path, tiny_model, "divided", *divided)
    root = tmp_path / "runs" / "divided"
    wait_for_step(root, 2, process)
    first = ranks_of(process)
    assert len(first) == 2
    first[1].kill()
    completed(process)
    assert len(metrics(root)) == STEPS
    assert measured(root, MEASURED) == measured(tmp_path / "runs" / "whole", MEASURED)
    assert measured(root, MEASURED)[-1]["sft/kl"] > 0
    said = (root / "run.log").read_text()
    assert said.count("is loaded anew by all of its ranks") == 1
