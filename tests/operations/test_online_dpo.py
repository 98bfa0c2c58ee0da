"""`rlpost preference data.online=true` with real Ray, vLLM and DeepSpeed, and resumed."""

import json

import pytest
from cli_runs import REWARD, metrics, responses, samples
from supervised_runs import assert_same, completed, cut_back, start, went_on

pytestmark = pytest.mark.timeout(1200)
STEPS, PAIRS, GROUP = 3, 2, 4
MEASURED = (
    "step",
    "preference/loss",
    "preference/grad_norm",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "critic/score/mean",
    "val-core/arithmetic/acc/mean@1",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("online")
    (place / "reward.py").write_text(REWARD)
    return place


def run(place, model, name):
    return start(
        place,
        "preference",
        model,
        name,
        "data.online=true",
        "data.train=arithmetic",
        "data.heldout_size=3",
        "verifier=function",
        f"verifier.path={place / 'reward.py'}:even_share",
        "rollout.max_tokens=6",
        f"rollout.group_size={GROUP}",
        f"examples_per_step={PAIRS}",
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


def test_each_step_learns_of_its_own_pairs(whole):
    rows = [row for row in metrics(whole) if "preference/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    first, *_, last = rows
    # The reference is the policy itself before the first update: log 2, and no reward differs.
    assert first["preference/loss"] == pytest.approx(0.6931472, abs=1e-4)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert last["rewards/margins"] != 0
    assert all(row["preference/grad_norm"] > 0 for row in rows)
    assert all(row["preference/pairs"] == PAIRS for row in rows)
    assert [row["step"] for row in metrics(whole) if MEASURED[-1] in row] == [0, 2, 3]


def test_what_was_sampled_is_recorded_and_every_push_is_proved(whole):
    drawn = {}
    for row in responses(whole):
        drawn.setdefault((row["file"], row["uid"]), []).append(row["reward"])
    assert all(len(rewards) == GROUP for rewards in drawn.values())
    with_pair = [key for key, rewards in drawn.items() if len(set(rewards)) > 1]
    assert len(with_pair) == STEPS * PAIRS
    assert len({uid for _, uid in drawn}) == len(drawn), "no prompt is used twice in an epoch"
    pushed = [row for row in metrics(whole) if "weights/version" in row]
    assert [row["weights/version"] for row in pushed] == list(range(1, STEPS + 2))
    assert max(row["weights/probe_logprob_diff_max"] for row in pushed) < 1e-3


def test_resumed_is_the_same_run(place, whole, tiny_untied_model):
    cut = cut_back(whole, "cut", to=STEPS - 1)
    completed(run(place, tiny_untied_model, "cut"))
    assert went_on(cut, after=STEPS - 1)
    assert_same(cut, whole, MEASURED, ended_after=STEPS - 1)
    assert samples(cut) == samples(whole)
    assert json.loads((cut / "cost.json").read_text())["spent"]["wall_s"] > 0
