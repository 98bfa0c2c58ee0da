"""The documented loop of one's own, on real parts: it samples, trains, pushes, and learns."""

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "docs/examples/best_of_n.py"


def loaded():
    spec = importlib.util.spec_from_file_location("best_of_n", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_example_runs_and_each_push_is_proved(tiny_model, capsys):
    example = loaded()
    assert len(EXAMPLE.read_text().splitlines()) <= 40
    means = await example.main(str(tiny_model))
    assert len(means) == example.STEPS
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("step")] == [
        f"step {step}" for step in range(1, example.STEPS + 1)
    ]
    likelihoods = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("step")]
    assert all(value > 0 for value in likelihoods)
    assert likelihoods[-1] < likelihoods[0]  # the best responses become likelier
