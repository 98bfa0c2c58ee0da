"""Options of suites that are scored during training, and the rules between them.

Owns their declaration. Refuses to own what needs files and models (suites.py). Invariant: without
suites nothing of this has an effect, so nothing of it is accepted.
"""

from dataclasses import dataclass, fields
from typing import Any

from rlpost.bounds import number, option
from rlpost.cluster.session import ClusterConfig
from rlpost.cluster.verifiers import JudgedClusterConfig
from rlpost.config.schema import MAX_TEMPERATURE, MIN_TEMPERATURE
from rlpost.control.failures import GenerationFailureConfig, RestartConfig
from rlpost.errors import UserError
from rlpost.evaluation.suites.catalog import SUITES, find_suite
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.stages.results import named_metrics
from rlpost.stages.sampling.generator_settings import check_deadlines
from rlpost.weights.publisher import WeightsConfig

WAY_OUT = "set evaluation.suites=[reasoning], or leave it out"


@dataclass(kw_only=True)
class SuitesConfig:
    """Which suites are scored during training, and how their items are answered."""

    suites: list[str] = option(
        [], help=f"suites that generators answer and verifiers judge: {', '.join(SUITES)}"
    )
    suite_every: int | None = number(
        None,
        at_least=1,
        at_most=10**8,
        help="steps between scorings of suites; null: with every evaluation",
    )
    suite_size: int | None = number(
        None, at_least=1, at_most=10**6, help="at most this many items of a suite; null: all"
    )
    samples: int = number(1, at_least=1, at_most=10**4, help="responses per item of a suite")
    temperature: float = number(
        0.0, at_least=0, at_most=MAX_TEMPERATURE, help="of sampling for suites; 0: greedy"
    )
    max_tokens: int = number(
        256, at_least=1, at_most=10**7, help="longest response to an item of a suite, in tokens"
    )

    def check(self, path: str) -> None:
        """Raises UserError: there is no such suite, or responses cannot be sampled like that."""
        for index, name in enumerate(self.suites):
            find_suite(name, field=f"{path}.suites[{index}]")
        if len(set(self.suites)) < len(self.suites):
            raise UserError(f"{path}.suites must name each suite once, got {self.suites}")
        check_answers(self.samples, self.temperature, prefix=f"{path}.")


def check_answers(samples: int, temperature: float, *, prefix: str) -> None:
    """Refuse responses of held-out items that cannot be sampled, or would all be the same.

    Raises:
        UserError: names the option, which begins with ``prefix``.
    """
    greedy = temperature == 0
    if not (greedy or temperature >= MIN_TEMPERATURE):
        raise UserError(
            f"{prefix}temperature must be 0 (greedy) or in [{MIN_TEMPERATURE:g}, "
            f"{MAX_TEMPERATURE:g}], got {temperature}"
        )
    if greedy and samples > 1:
        raise UserError(
            f"{prefix}samples={samples} with {prefix}temperature=0 would repeat the same response; "
            f"set {prefix}temperature=1.0, or {prefix}samples=1"
        )


def check_suites(cfg: Any) -> None:
    """Refuse what suites cannot do, and without suites every option of generators and verifiers.

    Args:
        cfg: options of a stage that learns from a data set, each checked by itself.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    if not cfg.evaluation.suites:
        _check_idle_options(cfg)
        return
    _check_schedule(cfg)
    check_deadlines(cfg)


def _check_idle_options(cfg: Any) -> None:
    why = f"has no effect without evaluation.suites: nothing generates; {WAY_OUT}"
    for name in (each.name for each in fields(SuitesConfig)):
        if (given := getattr(cfg.evaluation, name)) != getattr(SuitesConfig(), name):
            raise UserError(f"evaluation.{name}={given} {why}")
    for name, plain in (("generator", GeneratorConfig()), ("weights", WeightsConfig())):
        if getattr(cfg, name) != plain:
            raise UserError(f"{name}.* {why}")
    for place, whole, without in (
        ("failures", GenerationFailureConfig, RestartConfig),
        ("cluster", JudgedClusterConfig, ClusterConfig),
    ):
        plain, known = whole(), {each.name for each in fields(without)}
        for name in (each.name for each in fields(whole) if each.name not in known):
            if (given := getattr(getattr(cfg, place), name)) != getattr(plain, name):
                raise UserError(f"{place}.{name}={given} {why}")


def _check_schedule(cfg: Any) -> None:
    evaluation = cfg.evaluation
    if evaluation.suite_every is None or evaluation.suite_every == evaluation.every:
        return
    if evaluation.every == 0 or evaluation.suite_every % evaluation.every:
        raise UserError(
            f"evaluation.suite_every must be a multiple of evaluation.every={evaluation.every}, "
            f"got {evaluation.suite_every}: suites are scored together with held-out rows"
        )
    for option_name, metric in named_metrics(cfg).items():
        if metric.startswith("val-"):
            raise UserError(
                f"{option_name}={metric} must be measured by every evaluation, but suites are "
                f"scored only every {evaluation.suite_every} steps; leave evaluation.suite_every "
                f"out, or set evaluation.every={evaluation.suite_every}"
            )


def require_own_schedule(evaluation: Any) -> None:
    """Refuse a second schedule where suites are all that is measured.

    Raises:
        UserError: names both options.
    """
    if evaluation.suite_every not in (None, evaluation.every):
        raise UserError(
            f"evaluation.suite_every={evaluation.suite_every} is for runs that measure held-out "
            "rows more often, and no rows are held out; leave it out, and set "
            f"evaluation.every={evaluation.suite_every}"
        )
