import re

from rlpost.tracking.report.charts import CHARTS, charts_for


def _by_name(metrics):
    return {chart["name"]: chart for chart in charts_for(metrics)}


def test_no_metric_no_chart():
    assert charts_for([]) == []
    assert list(_by_name(["actor/entropy", "unknown"])) == ["entropy"]


def test_only_logged_series_are_drawn():
    chart = _by_name(["timing_s/gen", "timing_s/update_weights"])["timing"]
    assert [each["label"] for each in chart["series"]] == ["generate", "update weights"]
    assert chart["kind"] == "bars" and chart["legend"]


def test_every_heldout_data_set_is_a_curve():
    chart = _by_name(["val-core/a/acc/mean@2", "val-core/b/acc/mean@2", "val-core/b/x"])["heldout"]
    assert [each["label"] for each in chart["series"]] == ["a", "b"]


def test_graded_heldout_rewards_are_not_called_accuracy():
    name = "val-core/a/acc/mean@2"
    (accuracy,), (graded,) = charts_for([name]), charts_for([name], graded=True)
    assert (accuracy["title"], accuracy["range01"]) == ("Held-out accuracy", True)
    assert (graded["title"], graded["range01"]) == ("Held-out reward", False)
    assert "accuracy" not in str({**graded, "series": ""})


def test_several_rewards_have_a_chart_and_one_has_none():
    names = ["verifier/correct/mean", "verifier/short/mean", "verifier/short/error_rate"]
    chart = _by_name(names)["components"]
    assert [each["label"] for each in chart["series"]] == ["correct", "short"] and chart["legend"]
    assert "components" not in _by_name(names[1:])


def test_parts_of_the_heldout_reward_have_a_chart():
    chart = _by_name(["val-aux/a/correct/mean@2", "val-aux/a/short/mean@2"])["heldoutparts"]
    assert [each["label"] for each in chart["series"]] == ["a/correct", "a/short"]


def test_staleness_is_a_stack_in_the_order_of_lags():
    names = [f"training/off_policy/staleness/{lag}" for lag in ("0", "1", "10", "2", "mean")]
    chart = _by_name(names)["staleness"]
    assert [each["label"] for each in chart["series"]] == ["lag 0", "lag 1", "lag 2", "lag 10"]
    assert chart["kind"] == "bars" and chart["legend"]


def test_a_band_needs_both_edges():
    names = ["response_length/mean", "response_length/min"]
    assert _by_name(names)["length"]["band"] is None
    assert _by_name([*names, "response_length/max"])["length"]["band"] is not None


def test_names_are_usable_as_ids():
    names = [chart.name for chart in CHARTS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+", name) and name != "any" for name in names)
