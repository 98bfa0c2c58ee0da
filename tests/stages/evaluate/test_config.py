"""Which combinations of options are refused, and what the rest means."""

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError


def composed(*overrides):
    cfg, _ = compose_stage(list(overrides), stage="evaluate")
    return cfg


REFUSED = {
    "suites=[reasonin]": r"suites\[0\] must be one of reasoning, format, general, .* did you mean",
    "baseline.adapter=anywhere": "needs the model that it is on; give baseline.path",
    "endpoint.url=http://x/v1 endpoint.model=m model.adapter=x": "with x has no effect with",
    "suites=[format,format]": "suites must name each suite once",
    "k=[2]": r"k\[0\] must be at most samples=1, got 2: .* set samples=2",
    "samples=4 temperature=1 k=[1,4,4]": "k must hold each number once",
    "samples=2": "samples=2 with temperature=0 would repeat the same response",
    "temperature=0.001": "temperature must be 0",
    "data.heldout=rows.jsonl": "data.heldout=rows.jsonl needs a verifier",
    "verifier=math": "verifier.* judges the rows of data.heldout, which is not set",
    "data.prompt_column=q": "data.prompt_column has no effect without data.heldout",
    "resume=runs/x/checkpoints/step_1": "resume must be auto or never",
    "cluster.offload_idle=true": "cluster.offload_idle=true has no effect",
    "failures.trainer_restarts=7": "failures.trainer_restarts is about training",
    "data.heldout=a.jsonl verifier=math rewards.rule=product": "rewards.* combines several",
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_work_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        composed(*overrides.split())


@pytest.mark.parametrize("override", ["trainer.steps=3", "loss=clip", "data.train=rows.jsonl"])
def test_there_are_no_options_of_training(override):
    with pytest.raises((HydraException, OmegaConfBaseException)):
        composed(override)


def test_without_a_choice_every_suite_is_evaluated_on():
    assert composed().chosen_suites == ["reasoning", "format", "general"]
    assert composed("suites=[format]").chosen_suites == ["format"]
    own = composed("data.heldout=rows.jsonl", "verifier=math")
    assert own.chosen_suites == [] and list(own.all_verifiers) == ["math"]
    both = composed("data.heldout=rows.jsonl", "verifier=math", "suites=[general]")
    assert both.chosen_suites == ["general"]


def test_several_verifiers_judge_by_a_rule():
    cfg = composed(
        "data.heldout=rows.jsonl",
        "verifier=math",
        "+verifier@verifiers.form=format",
        "rewards.rule=gate",
        "rewards.gates=[form]",
    )
    assert cfg.combination.deciding == {"math"} and list(cfg.all_verifiers) == ["math", "form"]


def test_named_verifiers_are_enough():
    cfg = composed("data.heldout=rows.jsonl", "+verifier@verifiers.strict=exact")
    assert list(cfg.all_verifiers) == ["strict"]
