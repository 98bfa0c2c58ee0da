"""Options of suites during training: what works, and what is refused with its way out."""

import pytest

from rlpost.checkpoint.store import CheckpointConfig
from rlpost.cluster.verifiers import JudgedClusterConfig
from rlpost.control.failures import GenerationFailureConfig
from rlpost.errors import UserError
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.stages.learning.config import ScoredLearningConfig, check_scored_learning
from rlpost.stages.learning.settings import ScoredHeldoutConfig
from rlpost.training.optimizers.adamw import AdamWConfig
from rlpost.weights.publisher import WeightsConfig


def learning(**options):
    return ScoredLearningConfig(optimizer=AdamWConfig(), **options)


def refusal(**options):
    cfg = learning(**options)
    with pytest.raises(UserError) as error:
        check_scored_learning(cfg)
    return str(error.value)


def evaluation(**options):
    return ScoredHeldoutConfig(suites=["reasoning"], **options)


def test_suites_may_be_scored_more_rarely_than_held_out_rows():
    for given in (
        learning(),
        learning(evaluation=evaluation(suite_every=100, samples=4, temperature=1.0)),
        learning(evaluation=evaluation(every=0), generator=GeneratorConfig(num=2)),
    ):
        check_scored_learning(given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"generator": GeneratorConfig(num=2)}, "generator.* has no effect"),
        ({"weights": WeightsConfig(timeout_s=5)}, "weights.* has no effect"),
        ({"failures": GenerationFailureConfig(attempts=2)}, "failures.attempts=2 has no effect"),
        ({"cluster": JudgedClusterConfig(verifier_workers=3)}, "cluster.verifier_workers=3"),
        ({"evaluation": ScoredHeldoutConfig(samples=2, temperature=1.0)}, "evaluation.samples"),
        ({"evaluation": ScoredHeldoutConfig(suite_every=100)}, "evaluation.suite_every"),
    ],
)
def test_without_suites_nothing_of_generators_is_accepted(options, words):
    said = refusal(**options)
    assert words in said and "evaluation.suites=[reasoning]" in said


def test_without_suites_what_every_run_has_is_accepted():
    check_scored_learning(learning(failures=GenerationFailureConfig(trainer_restarts=1)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"evaluation": ScoredHeldoutConfig(suites=["resoning"])}, "did you mean 'reasoning'?"),
        ({"evaluation": ScoredHeldoutConfig(suites=["general"] * 2)}, "name each suite once"),
        ({"evaluation": evaluation(samples=4)}, "would repeat the same response"),
        ({"evaluation": evaluation(temperature=0.001)}, "evaluation.temperature must be 0"),
        ({"evaluation": evaluation(suite_every=75)}, "must be a multiple of evaluation.every=50"),
        ({"evaluation": evaluation(every=0, suite_every=5)}, "must be a multiple of"),
        (
            {
                "evaluation": evaluation(suite_every=100),
                "checkpoint": CheckpointConfig(best_metric="val-core/reasoning/acc/mean@1"),
            },
            "checkpoint.best_metric=val-core/reasoning/acc/mean@1 must be measured by every",
        ),
        (
            {
                "evaluation": evaluation(),
                "failures": GenerationFailureConfig(stuck_after_s=60),
            },
            "failures.stuck_after_s must be above",
        ),
    ],
)
def test_what_cannot_work_is_refused(options, words):
    assert words in refusal(**options)
