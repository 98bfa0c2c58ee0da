import json

import pytest

from rlpost.control.cost import DevicesInUse
from rlpost.stages.ledger import CostLedger, cores_here

GPUS = DevicesInUse(unit="gpu_s", number=2)


class Clock:
    def __init__(self):
        self.now_s = 50.0

    def __call__(self):
        return self.now_s


def opened(path, clock):
    return CostLedger(path, devices=lambda: GPUS, clock=clock)


def test_what_was_spent_outlives_the_process(tmp_path):
    clock = Clock()
    ledger = opened(tmp_path / "cost.json", clock)
    clock.now_s += 10.0
    ledger.note({"perf/trained_tokens": 5.0})
    saved = ledger.state_dict()
    clock.now_s += 7.0
    ledger.note()
    again = opened(tmp_path / "cost.json", clock)
    again.resume(saved)
    clock.now_s += 3.0
    again.note()
    metrics = again.metrics()
    assert (metrics["cost/wall_s"], metrics["cost/gpu_s"]) == (20.0, 40.0)
    assert (metrics["cost/lost/wall_s"], metrics["cost/tokens/trained"]) == (7.0, 5.0)


def test_what_is_reported_was_written_before(tmp_path):
    ledger = opened(tmp_path / "cost.json", Clock())
    ledger.note({"rollout/tokens": 3.0})
    written = json.loads((tmp_path / "cost.json").read_text())
    assert written["spent"]["tokens/sampled"] == ledger.metrics()["cost/tokens/sampled"] == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"spent": 3, "lost": {}}', '{"spent": {"a": "x"}}'])
def test_a_damaged_record_is_a_warning(tmp_path, text, caplog):
    (tmp_path / "cost.json").write_text(text)
    ledger = opened(tmp_path / "cost.json", Clock())
    assert "cost.json" in caplog.text
    ledger.note()
    assert ledger.metrics()["cost/wall_s"] == 0.0


def test_on_cpu_the_cores_that_the_run_may_use_count():
    assert cores_here().unit == "core_s" and cores_here().number >= 1
