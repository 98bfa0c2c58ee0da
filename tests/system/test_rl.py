"""`rlpost rl` as a user runs it: real Ray, vLLM and DeepSpeed on the tiny model."""

from pathlib import Path

import pytest
from cli_runs import (
    REWARD,
    STEPS,
    finish,
    metrics,
    other_modes,
    samples,
    start,
)

pytestmark = pytest.mark.timeout(900)  # processes boot slowly beside others


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("rl")
    (place / "reward.py").write_text(REWARD)
    return place


@pytest.fixture(scope="module")
def whole_run(place, tiny_untied_model) -> Path:
    process = start(place, tiny_untied_model, "whole", umask=0o077)
    output = finish(process)
    assert process.returncode == 0, output
    return place / "runs" / "whole"


def test_a_run_leaves_what_the_contract_promises(whole_run):
    for name in ("config.yaml", "metrics.jsonl", "report.html", "run.log", "checkpoints/latest"):
        assert (whole_run / name).is_file(), name
    rows = metrics(whole_run)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    accuracy = "val-core/arithmetic/acc/mean@1"
    assert [row["step"] for row in rows if accuracy in row] == [0, 2, 4]
    assert len(samples(whole_run)) == STEPS * 3 * 4
    saving = "timing_s/save_checkpoint"  # after each step, counted in the one that follows
    assert [row["step"] for row in rows if row.get(saving, 0) > 0] == [2, 3, 4]
    uids = [uid for _, uid, sample, _ in samples(whole_run) if sample == 0]
    assert len(set(uids)) == STEPS * 3
    assert other_modes(whole_run, umask=0o077) == {}


def test_every_push_is_proved_and_the_first_ratio_is_one(whole_run):
    rows = metrics(whole_run)
    pushes = [row for row in rows if "weights/version" in row]
    assert [row["weights/version"] for row in pushes] == [1, 2, 3, 4, 5]
    assert max(row["weights/probe_logprob_diff_max"] for row in pushes) < 1e-3
    assert max(row["actor/ratio/max_deviation"] for row in rows[1:]) < 1e-4
    assert all(row["actor/grad_norm"] > 0 for row in rows[1:])


def test_the_export_is_a_model_that_learned(whole_run, tiny_untied_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = AutoModelForCausalLM.from_pretrained(whole_run / "export")
    before = AutoModelForCausalLM.from_pretrained(tiny_untied_model)
    assert AutoTokenizer.from_pretrained(whole_run / "export").chat_template
    assert any(
        not torch.equal(a, b)
        for a, b in zip(trained.parameters(), before.parameters(), strict=True)
    )


def test_a_finished_run_is_not_trained_again(place, tiny_untied_model, whole_run):
    before = metrics(whole_run)
    process = start(place, tiny_untied_model, "whole")
    output = finish(process, timeout_s=60)
    assert process.returncode == 0, output
    assert metrics(whole_run) == before
