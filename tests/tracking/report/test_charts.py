from rlpost.tracking.report.charts import charts_for


def _by_name(metrics, **how):
    sections = charts_for(metrics, **how)
    return {chart["name"]: chart for section in sections for chart in section["charts"]}


def test_no_metric_no_section():
    assert charts_for([]) == []
    (section,) = charts_for(["actor/entropy", "unknown"])
    assert section["title"] == "Is the update sound?"
    assert [chart["name"] for chart in section["charts"]] == ["entropy"]


def test_only_logged_series_are_drawn():
    chart = _by_name(["timing_s/gen", "timing_s/update_weights"])["where-the-time-goes"]
    assert [each["label"] for each in chart["series"]] == ["generate", "update weights"]
    assert chart["kind"] == "bars" and chart["legend"]


def test_graded_heldout_rewards_are_not_called_accuracy():
    name = "val-core/a/acc/mean@2"
    accuracy = _by_name([name])["held-out-accuracy"]
    ((_, graded),) = _by_name([name], graded=True).items()
    assert (accuracy["title"], accuracy["range01"]) == ("Held-out accuracy", True)
    assert (graded["title"], graded["range01"]) == ("Held-out reward", False)
    assert "accuracy" not in str({**graded, "series": ""})


def test_one_curve_of_a_data_set_is_named_and_one_of_all_is_not():
    chart = _by_name(["sft/heldout_loss/code"])["held-out-loss-of-sft"]
    assert [each["label"] for each in chart["series"]] == ["code"] and chart["legend"]
    assert not _by_name(["sft/loss"])["training-loss-of-sft"]["legend"]
    assert not _by_name(["sft/heldout_loss"])["held-out-loss-of-sft"]["legend"]


def test_a_band_needs_both_edges():
    names = ["response_length/mean", "response_length/min"]
    assert _by_name(names)["response-length"]["band"] is None
    assert _by_name([*names, "response_length/max"])["response-length"]["band"] is not None
