"""`rlpost distill data.online=true` with real Ray, vLLM and DeepSpeed, and resumed.

A part of the prompts gives the response of its row. No verifier judges anything: the room that
samples must not ask for one.
"""

import pytest
from cli_runs import metrics, responses, samples
from supervised_runs import assert_same, completed, cut_back, start, went_on, write_rows

from rlpost.models.tiny import build_tiny_llama

pytestmark = pytest.mark.timeout(1200)
STEPS, PROMPTS, GROUP, BETA = 3, 2, 3, 1.0
MEASURED = (
    "step",
    "distill/loss",
    "distill/grad_norm",
    "distill/heldout_loss/arithmetic",
    "response_length/mean",
    "distill/on_policy_fraction",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("online")
    rows = ({"prompt": f"{n} + {n}?", "completion": str(2 * n)} for n in range(20))
    write_rows(place / "rows.jsonl", rows)
    build_tiny_llama(place / "teacher", layers=3, vocabulary=384, seed=7)
    return place


def run(place, model, name):
    return start(
        place,
        "distill",
        model,
        name,
        "data.online=true",
        "data.train=rows.jsonl",
        "data.on_policy_fraction=0.5",
        "data.heldout=arithmetic",
        "data.heldout_size=3",
        "teacher.path=teacher",
        f"distill.beta={BETA}",
        "rollout.max_tokens=6",
        f"rollout.group_size={GROUP}",
        f"examples_per_step={PROMPTS}",
        f"trainer.steps={STEPS}",
        "generator.dtype=float32",
        "generator.threads=1",
        "evaluation.every=2",
        "checkpoint.every=1",
        "checkpoint.keep=2",
    )


@pytest.fixture(scope="module")
def whole(place, tiny_untied_model):
    completed(run(place, tiny_untied_model, "whole"))
    return place / "runs" / "whole"


def test_each_step_learns_of_what_the_student_sampled(whole):
    rows = [row for row in metrics(whole) if "distill/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in metrics(whole) if MEASURED[3] in row] == [0, 2, 3]
    answered = [round(PROMPTS * row["distill/on_policy_fraction"]) for row in rows]
    assert 0 < sum(answered) < STEPS * PROMPTS, "the seed mixes nothing"
    sampled = responses(whole)
    assert len(sampled) == sum(answered) * GROUP and {row["reward"] for row in sampled} == {None}
    pushed = [row for row in metrics(whole) if "weights/version" in row]
    assert [row["weights/version"] for row in pushed] == list(range(1, STEPS + 2))
    assert max(row["weights/probe_logprob_diff_max"] for row in pushed) < 1e-3
    for row in rows:
        of_step = [each for each in sampled if each["file"] == f"step_{row['step']:06d}"]
        tokens = [each["num_tokens"] for each in of_step]
        assert row.get("response_length/mean") == (
            pytest.approx(sum(tokens) / len(tokens)) if tokens else None
        )
    assert all(row["distill/loss"] > 0 and row["distill/grad_norm"] > 0 for row in rows)
    assert not any(name.startswith(("val-core/", "verifier/")) for name in metrics(whole)[-1])
    assert "renormalised over the 259 tokens that exist" in (whole / "run.log").read_text()


def test_resumed_is_the_same_run(place, whole, tiny_untied_model):
    cut = cut_back(whole, "cut", to=STEPS - 1)
    completed(run(place, tiny_untied_model, "cut"))
    assert went_on(cut, after=STEPS - 1)
    assert_same(cut, whole, MEASURED, ended_after=STEPS - 1)
    assert samples(cut) == samples(whole)
