"""What a stage of a pipeline reports: numbers that were measured, never others in their place."""

import json
from types import SimpleNamespace

import pytest

from rlpost.errors import RunFailed
from rlpost.pipeline.gate import parse_gate
from rlpost.pipeline.spec import StageSpec
from rlpost.stages.pipeline.measured import measured_of
from rlpost.stages.pipeline.places import Places

GATE = parse_gate("kl_to_start <= 0.5", field="gate")


@pytest.fixture
def measured(tmp_path):
    """Return what a stage reports whose steps have these divergences."""
    places = Places(root=tmp_path)
    plan = SimpleNamespace(places=places, groups=())
    planned = SimpleNamespace(spec=StageSpec(id="rl1", run="rl", output="model", gates=(GATE,)))

    def found(*divergences):
        rows = [{"step": step, "time_s": step, "actor/ref_kl": kl}
                for step, kl in enumerate(divergences, start=1)]  # fmt: skip
        rows.append({"step": len(rows) + 1, "time_s": 9, "val-core/x/acc/mean@1": 0.5})
        file = places.run("rl1").metrics
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return measured_of(plan, planned, attempt=1, path=tmp_path)

    return found


def test_the_divergence_is_that_of_the_first_and_the_last_step(measured):
    assert measured(0.0, 0.9, 0.2) == {"kl_at_start": 0.0, "kl_to_start": 0.2}


def test_a_last_divergence_that_is_not_finite_ends_the_pipeline(measured):
    with pytest.raises(RunFailed, match="rl1 reported no kl_to_start"):
        measured(0.0, 0.1, None)
    assert measured(None, 0.1) == {"kl_to_start": 0.1}
