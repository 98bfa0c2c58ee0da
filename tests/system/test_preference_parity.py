"""Preference losses equal a plain loop: real DeepSpeed on gloo, packing, micro-batches, ranks.

The plain loop runs each completion of a pair by itself behind its own prompt.
"""

import math
from pathlib import Path

import pytest
import torch
from packed_groups import relative_difference
from plain_preference import LOSSES, NLL_WEIGHT, Model, plain_gradient, rows
from rank_processes import run_ranks

from rlpost.models.tiny import build_tiny_llama

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = Path(__file__).with_name("preference_parity_rank.py")
NUM_ROWS = 8


@pytest.fixture(scope="module")
def reference_path(tmp_path_factory):
    """Another model than the policy, so that no log-ratio is 0."""
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "reference", tied=False, seed=1)


@pytest.fixture(scope="module")
def plain(tiny_untied_model, reference_path):
    """Loss -> its value and its gradient."""
    policy, reference = Model.load(tiny_untied_model), Model.load(reference_path)
    return {name: plain_gradient(name, policy, reference, rows(NUM_ROWS)) for name in LOSSES}


def run(tmp_path, models, *, ranks, control):
    first = list(map(str, models))
    return run_ranks(SCRIPT, tmp_path, ranks=ranks, first=first, control=control, num_ports=2)


@pytest.fixture(scope="module", params=[1, 2])
def ran(request, tmp_path_factory, tiny_untied_model, reference_path):
    """What so many ranks found in all cases, and where their gradients lie."""
    place = tmp_path_factory.mktemp("ranks")
    models = (tiny_untied_model, reference_path)
    return run(place, models, ranks=request.param, control="none"), place


def test_gradients_are_those_of_the_plain_loop(ran, plain):
    found, place = ran[0]["cases"], ran[1]
    assert {case.split(", ")[1] for case in found} == set(LOSSES)
    for case, ours in found.items():
        loss, gradient = plain[case.split(", ")[1]]
        assert ours["loss"] == pytest.approx(loss, rel=1e-5), case
        mine = torch.load(place / ours["gradient"], weights_only=True)
        assert relative_difference(mine, gradient) < 1e-5, case
    counts = {ours["num_micro_batches"] for ours in found.values()}
    assert len(counts) >= 3, "the cases must split the batch differently"


def test_a_run_begins_at_the_values_of_the_papers(ran, plain):
    """The reference is the policy: every log-ratio is 0, not about 0."""
    begun = {name: each["preference/loss"] for name, each in ran[0]["begun"].items()}
    nll = ran[0]["begun"]["rpo"]["preference/nll"]
    log2 = math.log(2)
    expected = {
        "dpo": log2,
        "cdpo": log2,
        "robust": log2,
        "rpo": log2 + nll,
        "ipo": 25.0,
        "hinge": 1.0,
        "kto": 0.5,
        **{name: plain[name][0] for name in ("orpo", "simpo", "cpo")},  # they need no reference
    }
    assert begun == pytest.approx(expected, rel=1e-4)
    for name in ("dpo", "cdpo", "robust", "rpo", "ipo", "hinge"):
        measured = ran[0]["begun"][name]
        assert measured["rewards/chosen"] == measured["rewards/rejected"] == 0, name
        assert measured["rewards/accuracies"] == 0.5, name  # all are ties


def test_ranks_that_divide_a_pair_agree_with_the_plain_loop(
    tmp_path, tiny_untied_model, reference_path, plain
):
    found = run(tmp_path, (tiny_untied_model, reference_path), ranks=2, control="divided")
    assert len(found["cases"]) == 3
    for case, ours in found["cases"].items():
        loss, gradient = plain[case.split(", ")[1]]
        assert ours["loss"] == pytest.approx(loss, rel=1e-5), case
        mine = torch.load(tmp_path / ours["gradient"], weights_only=True)
        assert relative_difference(mine, gradient) < 1e-5, case


def test_a_local_mean_of_the_likelihood_would_be_noticed(
    tmp_path, tiny_untied_model, reference_path, plain
):
    found = run(tmp_path, (tiny_untied_model, reference_path), ranks=1, control="local mean")
    assert len(found["cases"]) == len(NLL_WEIGHT)
    for case, ours in found["cases"].items():
        mine = torch.load(tmp_path / ours["gradient"], weights_only=True)
        assert relative_difference(mine, plain[case.split(", ")[1]][1]) > 1e-3, case
