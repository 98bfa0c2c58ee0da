"""Every role and option of a PPO step at once: real critic, reward model and reference."""

import pytest
from cli_runs import REWARD, every_role, finish, metrics, responses, samples, start
from supervised_runs import cut_back, went_on

STEPS = 3


@pytest.fixture(scope="module")
def options(tmp_path_factory, tiny_reward):
    place = tmp_path_factory.mktemp("roles")
    (place / "reward.py").write_text(REWARD)
    overrides = [
        *every_role(tiny_reward),
        "verifier.weight=1",
        "+verifier@verifiers.right=numeric",
        "verifiers.right.weight=0.25",
        "rewards.rule=gate",
        "rewards.gates=[even_share]",
        "rewards.threshold=0.4",
        "rewards.floor=-2",
        f"+reward_models.served.path={tiny_reward}",
        "+reward_models.served.engine=vllm",
        f"trainer.steps={STEPS}",
        "checkpoint.keep=2",
    ]
    return place, overrides


@pytest.fixture(scope="module")
def whole_run(options, tiny_model):
    place, overrides = options
    process = start(place, tiny_model, "whole", *overrides)
    output = finish(process)
    assert process.returncode == 0, output
    return place / "runs" / "whole"


def test_every_role_reports(whole_run):
    first, *steps = metrics(whole_run)
    assert first["step"] == 0 and "val-core/arithmetic/acc/mean@1" in first
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        for key in (
            "critic/vf_loss",
            "critic/lr",
            "critic/grad_norm",
            "actor/kl_coef",
            "verifier/even_share/mean",
            "verifier/right/mean",
            "verifier/taste/mean",
            "timing_s/ref",
            "timing_s/values",
            "timing_s/old_log_prob",
        ):
            assert key in row, (key, row["step"])
    warming_up, *trained = steps
    assert "actor/pg_loss" not in warming_up  # only the critic was trained
    assert "weights/version" not in warming_up  # so there was nothing to push
    for row in trained:
        assert row["actor/grad_norm"] > 0
        assert row["correction/weight/mean"] == pytest.approx(1, abs=1e-3)  # float32: no mismatch
    # The controller rests while only the critic learns; then it sees a KL of 0, and lets go.
    assert [row["actor/kl_coef"] for row in steps[:2]] == [0.05, 0.05]
    assert steps[2]["actor/kl_coef"] < 0.05


def test_an_interrupted_response_is_one_response_with_the_phrase_in_it(whole_run):
    rows = responses(whole_run)
    interrupted = [row for row in rows if " so" in row["response"]]
    assert interrupted and all(row["num_tokens"] <= 8 for row in rows)
    for row in interrupted:
        before, after = row["spans"]
        assert (before["start"], before["end"]) == (0, 3)
        assert 3 < after["start"] < after["end"] == row["num_tokens"]
    for row in rows:
        if row not in interrupted:
            (span,) = row["spans"]
            assert span["start"] == 0 and span["end"] == row["num_tokens"] <= 3
    for step in metrics(whole_run)[1:]:
        assert step["response_length/interrupted_ratio"] > 0


def test_a_reward_model_scores_the_same_in_vllm_and_in_transformers(whole_run):
    pairs = []
    for row in responses(whole_run):
        verdicts = {verdict["verifier"]: verdict for verdict in row["verdicts"]}
        plain, served = verdicts["taste"], verdicts["served"]
        pairs.append((plain["info"].get("raw", plain["reward"]), served["reward"]))
    plain, served = zip(*pairs, strict=True)
    assert served == pytest.approx(plain, abs=1e-4)
    assert len(set(served)) > len(served) / 2  # negative control: the scores differ


def test_two_verifiers_and_two_reward_models_make_one_reward(whole_run):
    stopped = 0
    for row in responses(whole_run):
        said = {verdict["verifier"]: verdict["reward"] for verdict in row["verdicts"]}
        assert list(said) == ["even_share", "right", "taste", "served"]
        passed = said["even_share"] >= 0.4
        others = 0.25 * said["right"] + said["taste"] + said["served"]
        assert row["reward"] == pytest.approx(others if passed else -2)
        stopped += not passed
    assert 0 < stopped < len(responses(whole_run))  # both ways are taken


def test_resumed_in_the_middle_it_is_the_same_run(options, tiny_model, whole_run):
    """Critic, reward statistics and KL coefficient come back with the policy.

    And nothing changes when models leave memory while they wait.
    """
    place, overrides = options
    cut = cut_back(whole_run, "cut", to=STEPS - 1)
    process = start(place, tiny_model, "cut", *overrides, "cluster.offload_idle=true")
    output = finish(process)
    assert process.returncode == 0, output
    assert went_on(cut, after=STEPS - 1)
    assert samples(cut) == samples(whole_run)
    ours, theirs = metrics(cut)[-1], metrics(whole_run)[-1]
    for key in ("actor/pg_loss", "critic/vf_loss", "critic/score/mean", "actor/kl_coef"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key
    assert ours["perf/offloaded_gb"] > 0 and "perf/offloaded_gb" not in theirs
