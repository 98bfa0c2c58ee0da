"""Runs that do not learn, by kind; and many that do, about which nothing may be said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.advantages import group_statistics, rewards_matrix
from rlpost.control.learning_signs import LearningSigns, signs_of
from rlpost.control.sign import SignKind

HELDOUT = {"step": 0, "val-core/a/acc/mean@1": 0.1}


def step(number, groups, *, truncated=0.0, skipped=None, advantages=None, **more):
    """A row as the loop writes it; ``groups`` are rewards, None where a verdict failed."""
    rewards = [reward for group in groups for reward in group if reward is not None]
    row = {
        "step": number,
        "response_length/mean": 12.0,
        "response_length/clip_ratio": truncated,
        "verifier/exact/error_rate": 0.0,
        **group_statistics(rewards_matrix(groups)).metrics(),
    }
    if rewards:
        mean = sum(rewards) / len(rewards)
        row |= spread("critic/score", min(rewards), mean, max(rewards))
    if advantages is not None:
        row |= spread("critic/advantages", min(advantages), 0.0, max(advantages))
    differ = any(len(set(group) - {None}) > 1 for group in groups)
    row["training/skipped"] = float(not differ if skipped is None else skipped)
    return {**row, **more}


def spread(name, low, mean, high):
    return {f"{name}/min": low, f"{name}/mean": mean, f"{name}/max": high}


def test_a_supervised_run_is_told_that_nothing_is_held_out():
    losses = [{"step": number, "sft/loss": 2.0} for number in (1, 2)]
    assert kinds(*losses, heldout=False) == [SignKind.no_heldout]
    assert kinds({"step": 0, "sft/heldout_loss/chat": 3.0}, *losses, heldout=False) == []
    assert kinds({"step": 1, "timing_s/step": 3.0}, heldout=False) == []


FAIL, PASS, SOME = [0.0] * 4, [1.0] * 4, [0.0, 1.0, 0.0, 0.0]


def kinds(*rows, heldout=True, **options):
    return [sign.kind for sign in signs_of([HELDOUT] * heldout + list(rows), **options)]


def test_no_reward_above_zero_is_said_after_two_steps():
    rows = [step(number, [FAIL, FAIL]) for number in (1, 2)]
    assert kinds(rows[0]) == []
    assert kinds(*rows) == [SignKind.no_reward]
    assert kinds(rows[0], patience=1) == [SignKind.no_reward]
    (sign,) = signs_of([HELDOUT, *rows])
    assert str(sign).startswith("no response of steps 1 and 2 got a reward above 0. Read some in ")
    assert "rollouts/step_000002.jsonl" in sign.advice


def test_one_reward_is_enough_to_say_nothing():
    assert kinds(step(1, [FAIL, FAIL]), step(2, [FAIL, SOME])) == []


def test_the_same_reward_for_all_is_no_signal():
    same = [step(number, [[0.5] * 4] * 3) for number in (1, 2)]
    assert kinds(*same) == [SignKind.equal]
    assert "every response of steps 1 and 2" in signs_of(same)[0].finding
    by_prompt = [step(number, [FAIL, PASS, [0.5] * 4]) for number in (1, 2)]
    assert kinds(*by_prompt) == [SignKind.equal]
    assert "all responses to the same prompt" in signs_of(by_prompt)[0].finding


def test_a_penalty_in_the_loss_is_no_signal_of_the_reward():
    """With a KL term the step is not skipped; its advantages are all 0."""
    rows = [step(n, [FAIL, PASS], skipped=False, advantages=[0.0, 0.0]) for n in (1, 2)]
    assert kinds(*rows) == [SignKind.equal]


def test_estimators_that_compare_across_prompts_learn_from_equal_groups():
    rows = [step(n, [FAIL, PASS], skipped=False, advantages=[-0.5, 0.5]) for n in (1, 2)]
    assert kinds(*rows) == []


def test_imitating_what_is_right_is_no_sign():
    """Rejection sampling: every kept response has the advantage 1."""
    rows = [step(n, [FAIL, PASS], skipped=False, advantages=[1.0, 1.0]) for n in (1, 2)]
    assert kinds(*rows) == []


def test_negative_rewards_that_differ_are_a_signal():
    rows = [step(number, [[-3.0, -1.0], [-2.0, -0.5]]) for number in (1, 2)]
    assert kinds(*rows) == []
    assert kinds(*[step(n, [[-1.0, -1.0]] * 2) for n in (1, 2)]) == [SignKind.no_reward]


def test_solving_everything_is_good_news_after_learning_and_none_at_the_start():
    solved = [step(number, [PASS, PASS, PASS]) for number in (1, 2, 3)]
    assert kinds(*solved) == [SignKind.solved]
    learned = [step(1, [SOME, PASS, FAIL]), *(replace_step(row, 1) for row in solved)]
    assert kinds(*learned) == []
    nearly = [step(number, [PASS, PASS, FAIL]) for number in (2, 3)]
    assert kinds(learned[0], *nearly) == []


def replace_step(row, by):
    return {**row, "step": row["step"] + by}


def test_a_collapse_is_said_and_a_recovery_takes_it_back():
    rows = [step(1, [SOME, SOME]), step(2, [FAIL, FAIL]), step(3, [FAIL, FAIL])]
    assert kinds(*rows) == [SignKind.equal]
    assert kinds(*rows, step(4, [SOME, FAIL])) == []


def test_one_response_a_prompt_is_judged_by_the_whole_step():
    assert kinds(*[step(n, [[0.0], [1.0]], skipped=False) for n in (1, 2)]) == []
    assert kinds(*[step(n, [[0.0], [0.0]], skipped=False) for n in (1, 2)]) == [SignKind.no_reward]


def test_responses_nobody_judged_are_said_at_once():
    row = step(1, [[None, None]], **{"verifier/math/error_rate": 0.75})
    row["verifier/math/timeout_rate"] = 0.25
    assert kinds(row) == [SignKind.unjudged]
    (sign,) = signs_of([HELDOUT, row])
    assert "the verifier math failed on every response of step 1" in sign.finding
    abstained = step(1, [[None, None]], **{"verifier/math/error_rate": 0.0})
    assert "gave no reward" in signs_of([HELDOUT, abstained])[0].finding
    assert kinds(row, step(2, [SOME])) == []


def test_a_verifier_of_weight_0_may_fail_alone():
    row = step(1, [SOME], **{"verifier/extra/error_rate": 1.0, "verifier/math/error_rate": 0.0})
    (sign,) = signs_of([HELDOUT, row])
    assert sign.kind is SignKind.unjudged and "the verifier extra failed" in sign.finding


def test_everything_cut_is_said_beside_the_rewards():
    rows = [step(number, [FAIL], truncated=1.0) for number in (1, 2)]
    assert kinds(*rows) == [SignKind.no_reward, SignKind.truncated]
    assert kinds(rows[0], step(2, [SOME], truncated=0.96)) == []


def test_without_heldout_data_it_is_said_with_the_first_step():
    assert kinds(HELDOUT) == []
    assert kinds(step(1, [SOME]), heldout=False) == [SignKind.no_heldout]
    unjudged = {"step": 0, "val-core/a/missing": 3.0}  # there is held-out data
    assert kinds(unjudged, step(1, [SOME]), heldout=False) == []


def test_a_row_of_the_same_step_changes_nothing():
    rows = [step(1, [FAIL]), {"step": 1, "val-core/a/acc/mean@1": 0.2}, step(2, [FAIL])]
    assert kinds(*rows) == [SignKind.no_reward]


def test_what_is_not_finite_is_unknown():
    rows = [step(number, [FAIL]) for number in (1, 2)]
    rows[1] |= spread("critic/score", None, None, None)
    assert kinds(*rows) == [SignKind.unjudged]
    assert kinds(*[{**row, "response_length/mean": None} for row in rows]) == []


rewards = st.sampled_from([0.0, 0.25, 1.0])


@given(st.lists(st.lists(st.lists(rewards, min_size=2, max_size=4), min_size=1), min_size=2))
def test_a_run_in_which_some_group_differs_in_each_step_is_never_warned_of(steps):
    rows = [step(n, [[0.0, 1.0], *groups]) for n, groups in enumerate(steps, start=1)]
    signs = LearningSigns()
    signs.observe(HELDOUT)
    for row in rows:
        signs.observe(row)
        assert signs.now() == []


@given(st.lists(rewards, min_size=2, max_size=6))
def test_a_run_of_equal_groups_always_has_one_sign_of_its_rewards(values):
    rows = [step(n, [[value] * 3] * 2) for n, value in enumerate(values, start=1)]
    about = {SignKind.no_reward, SignKind.equal, SignKind.solved}
    assert len(about.intersection(kinds(*rows))) == 1 and len(kinds(*rows)) == 1


def test_samples_that_nobody_judges_miss_no_verdict():
    row = step(1, [[None, None]])
    assert kinds(row) == [SignKind.unjudged]
    alone = {name: v for name, v in row.items() if not name.startswith("verifier/")}
    assert SignKind.unjudged not in kinds(alone)


def test_advice_names_settings_that_exist():
    from rlpost.config.schema import RLConfig

    cfg = RLConfig(verifier=None, loss=None)
    for name in ("rollout.max_tokens", "rollout.group_size", "rollout.temperature", "data.heldout"):
        room, field = name.split(".")
        assert hasattr(getattr(cfg, room), field)


@pytest.mark.parametrize("kind", SignKind)
def test_every_kind_can_be_found(kind):
    examples = {
        SignKind.unjudged: [step(1, [[None, None]])],
        SignKind.no_reward: [step(n, [FAIL]) for n in (1, 2)],
        SignKind.solved: [step(n, [PASS]) for n in (1, 2)],
        SignKind.equal: [step(n, [[0.5, 0.5]]) for n in (1, 2)],
        SignKind.truncated: [step(n, [SOME], truncated=1.0) for n in (1, 2)],
        SignKind.no_heldout: [step(1, [SOME])],
        SignKind.length: [{"step": n, "preference/length_correlation": 0.9} for n in range(1, 5)],
        SignKind.chosen_fall: [
            {"step": n, "rewards/chosen": -1.0 * (n > 4), "rewards/margins": 0.0}
            for n in range(1, 9)
        ],
        SignKind.capacity: [
            {
                "step": n,
                "adapter/reach": 0.1,
                "adapter/gradient_agreement": 0.9,
                "adapter/gradient_outside_agreed": 0.95,
                "adapter/update_rank_used": 0.9,
            }
            for n in (1, 2)
        ],
    }
    assert kind in kinds(*examples[kind], heldout=kind is not SignKind.no_heldout)
