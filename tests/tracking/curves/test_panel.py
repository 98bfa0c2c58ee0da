from rlpost.tracking.curves.table import sections_of

PANELS = {panel.title: panel for section in sections_of() for panel in section.panels}


def labels(title, metrics):
    return [curve.label for curve in PANELS[title].shown(metrics)]


def test_every_heldout_data_set_is_a_curve():
    names = ["val-core/a/acc/mean@2", "val-core/b/acc/mean@2", "val-core/b/x"]
    assert labels("Held-out accuracy", names) == ["a", "b"]


def test_several_rewards_have_a_chart_and_one_has_none():
    names = ["verifier/correct/mean", "verifier/short/mean", "verifier/short/error_rate"]
    assert labels("Reward components", names) == ["correct", "short"]
    assert labels("Reward components", names[1:]) == []


def test_parts_of_the_heldout_reward_have_a_chart():
    names = ["val-aux/a/correct/mean@2", "val-aux/a/short/mean@2"]
    assert labels("Held-out reward components", names) == ["a/correct", "a/short"]


def test_staleness_is_in_the_order_of_lags():
    names = [f"training/off_policy/staleness/{lag}" for lag in ("0", "1", "10", "2", "mean")]
    assert labels("Staleness", names) == ["lag 0", "lag 1", "lag 2", "lag 10"]


def test_curves_keep_the_order_of_their_declaration():
    names = ["group/zero_std_frac", "group/all_pass_frac", "other"]
    assert labels("Groups that teach", names) == ["all pass", "equal rewards"]


def test_the_name_of_a_pattern_may_be_empty():
    assert labels("Held-out loss of sft", ["sft/heldout_loss"]) == [""]
    assert labels("Held-out loss of sft", ["sft/heldout_loss/x", "pretrain/heldout_loss/y"]) == [
        "x"
    ]
