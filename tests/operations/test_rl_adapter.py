"""`rlpost rl` with an adapter: what is pushed, what a response came from, what a death costs."""

import psutil
import pytest
from cli_runs import REWARD, finish, metrics, responses, start, wait_for_step

from rlpost.models.locate import parameter_count

pytestmark = pytest.mark.timeout(900)  # processes boot slowly beside others

STEPS = 6
ASYNC = ["rl.max_staleness=2", f"trainer.steps={STEPS}", "evaluation.every=0", "trainer.lr=1e-2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_untied_model):
    """An asynchronous run of two generators, one of whose engines is killed."""
    place = tmp_path_factory.mktemp("rl")
    (place / "reward.py").write_text(REWARD)
    options = [*ASYNC, "adapter=lora", "adapter.rank=4", "generator.num=2"]
    run = place / "runs" / "adapter"
    process = start(place, tiny_untied_model, "adapter", *options)
    wait_for_step(run, 2, process)
    _engines(process)[0].kill()
    output = finish(process)
    assert process.returncode == 0, output
    return run


def _engines(process) -> list[psutil.Process]:
    below = psutil.Process(process.pid).children(recursive=True)
    return [each for each in below if each.name().startswith("VLLM::EngineCor")]


def test_the_adapter_alone_is_pushed_and_proved(run, tiny_untied_model):
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert all(row["actor/grad_norm"] > 0 for row in rows[1:])
    pushes = [row for row in rows if "weights/version" in row]
    assert len(pushes) == STEPS + 1
    versions = [row["weights/version"] for row in pushes]
    assert versions == sorted(set(versions))
    assert max(row["weights/probe_logprob_diff_max"] for row in pushes) < 1e-3
    # Seven layers of two blocks; what rank 4 needs of each input and output of them, in float32.
    widths = (64 + 64) + 2 * (64 + 32) + (64 + 64) + 2 * (64 + 128) + (128 + 64)
    assert {row["weights/bytes"] for row in pushes} == {2 * 4 * widths * 4.0}
    assert 2 * 4 * widths < parameter_count(str(tiny_untied_model)) / 4


def test_a_response_has_one_version_however_many_pushes_came_meanwhile(run):
    spans = [row["spans"] for row in responses(run)]
    assert spans and all(len(each) == 1 for each in spans)
    ages = [row.get("training/off_policy/trajectory_staleness/max", 0) for row in metrics(run)[1:]]
    assert 0 < max(ages) <= 2


def test_the_log_names_the_engine_that_died(run):
    assert "is restarted" in (run / "run.log").read_text()


def test_peft_loads_what_was_trained(run, tiny_untied_model):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_untied_model)
    trained = PeftModel.from_pretrained(base, run / "export")
    moved = [p.abs().max() for n, p in trained.named_parameters() if "lora_B" in n]
    assert len(moved) == 14 and all(each > 0 for each in moved)
