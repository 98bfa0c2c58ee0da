"""hydra's sweeper ``optuna``: the next members are chosen by how the earlier ones did.

Owns the search: options that vary -> a space, a metric of finished runs -> the next values.
Refuses to own how members run (hydra's launcher). Invariant: the search is a function of its
seed and of what the members reached, so the same command again asks for the same members,
finds the finished ones complete, and goes on where it was. Why not hydra-optuna-sweeper:
docs/decisions/0013.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from rlpost.bounds import check_config, number, option
from rlpost.errors import UserError
from rlpost.tracking.files.sweep_record import MemberRecord, MemberState

if TYPE_CHECKING:
    from rlpost.tracking.heldout import Reached

log = logging.getLogger(__name__)


class Goal(Enum):
    """What is better."""

    maximize = "maximize"
    minimize = "minimize"


class SearchSampler(Enum):
    """How values are chosen."""

    tpe = "tpe"
    random = "random"


@dataclass(kw_only=True)
class OptunaConfig:
    """Options of ``hydra/sweeper=optuna``, under ``hydra.sweeper``."""

    _target_: str
    n_trials: int = number(20, at_least=1, at_most=10**6, help="members of the whole search")
    batch_size: int | None = number(
        None, at_least=1, at_most=1000, help="members chosen at once; null: as many as run at once"
    )
    metric: str | None = option(
        None, help="metric whose last value in metrics.jsonl counts; null: the held-out result"
    )
    goal: Goal | None = option(
        None,
        help="whether the metric should become large or small; null: as its name tells",
    )
    sampler: SearchSampler = option(SearchSampler.tpe, help="optuna's sampler")
    seed: int = number(0, at_least=0, at_most=2**31 - 1, help="seed of optuna's sampler")
    params: dict[str, str] = option({}, help="option -> its values, as after `-m`")


class OptunaSweeper(Sweeper):
    """Asks optuna for values, runs them as members, tells optuna what they reached."""

    def __init__(self, **options: Any) -> None:
        self.cfg = OptunaConfig(_target_="", **options)
        check_config(self.cfg, "hydra.sweeper")

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run ``n_trials`` members, a batch at a time.

        Raises:
            UserError: optuna is not installed, or nothing varies.
        """
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "hydra/sweeper=optuna needs optuna: pip install 'rlpost[sweep]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space, fixed = search_space([*(f"{k}={v}" for k, v in self.cfg.params.items()), *arguments])
        samplers = {SearchSampler.tpe: optuna.samplers.TPESampler}
        sampler = samplers.get(self.cfg.sampler, optuna.samplers.RandomSampler)(seed=self.cfg.seed)
        self._check_goal()
        study = optuna.create_study(direction="maximize", sampler=sampler)
        batch_size = self.cfg.batch_size or getattr(self.launcher, "n_jobs", 1)
        num_members = 0
        while (left := self.cfg.n_trials - len(study.trials)) > 0:
            trials = [study.ask(space) for _ in range(min(batch_size, left))]
            chosen = [[*fixed, *_overrides(trial.params, space)] for trial in trials]
            # Choices can come twice: one run answers for both.
            different = [list(each) for each in dict.fromkeys(map(tuple, chosen))]
            returns = self.launcher.launch(different, initial_job_idx=num_members)
            num_members += len(different)
            records = [job.return_value for job in returns]
            reached = {tuple(c): r for c, r in zip(different, records, strict=True)}
            for trial, overrides in zip(trials, chosen, strict=True):
                self._tell(study, trial, reached[tuple(overrides)])
            if any(each.exit_code == 130 or each.exit_code is None for each in records):
                log.warning("interrupted: the same command goes on with the search")
                return

    def _tell(self, study: Any, trial: Any, record: MemberRecord) -> None:
        import optuna

        reached = objective(record, metric=self.cfg.metric)
        if reached is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            wants_low = self.cfg.goal is Goal.minimize if self.cfg.goal else reached.lowest_is_best
            study.tell(trial, -reached.value if wants_low else reached.value)

    def _check_goal(self) -> None:
        """Raises UserError: nobody says whether the metric should become large or small."""
        from rlpost.control.result_metrics import lowest_is_best

        metric = self.cfg.metric
        if metric is not None and self.cfg.goal is None and lowest_is_best(metric) is None:
            raise UserError(
                f"hydra.sweeper.goal must be maximize or minimize for the metric {metric}, whose "
                "name does not tell which is better"
            )


def objective(record: MemberRecord, *, metric: str | None) -> "Reached | None":
    """Return what a finished member reached; None when it failed or never measured it."""
    from rlpost.tracking.files.jsonl import read_metrics
    from rlpost.tracking.heldout import last_reached

    if record.state is not MemberState.done:
        return None
    reached = last_reached(read_metrics(Path(record.run_dir) / "metrics.jsonl"), metric)
    if reached is None:
        log.warning("%s has no value of %s", record.name, metric or "a held-out result")
    return reached


def search_space(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split the command line into optuna's distributions and the options that stay.

    ``a,b`` and ``range(1,9)`` are discrete, ``int(interval(1,9))`` whole numbers;
    ``interval(1e-6,1e-4)`` is continuous, ``tag(log,interval(1e-6,1e-4))`` in the logarithm.
    What comes later wins.

    Raises:
        UserError: nothing varies.
    """
    space: dict[str, Any] = {}
    fixed: dict[str, str] = {}
    for each in OverridesParser.create().parse_overrides(list(arguments)):
        key = each.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if each.is_sweep_override():
            space[key] = _distribution(each)
        else:
            fixed[key] = f"{key}={each.get_value_element_as_str()}"
    if not space:
        raise UserError(
            "hydra/sweeper=optuna: no option varies; give one a range, such as "
            "'trainer.lr=tag(log,interval(1e-6,1e-4))', or use sweep=optuna"
        )
    return space, list(fixed.values())


def _distribution(override: Override) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value: Any = override.value()
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = IntDistribution if whole else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if override.is_range_sweep() and not value.shuffle:
        values = list(value.range())
        if len(values) > 1:
            kind = IntDistribution if isinstance(values[0], int) else FloatDistribution
            return kind(values[0], values[-1], step=value.step)
    return CategoricalDistribution(list(override.sweep_iterator(transformer=Transformer.encode)))


def _overrides(params: dict[str, Any], space: dict[str, Any]) -> list[str]:
    return [f"{name}={_short(value, space[name])}" for name, value in params.items()]


def _short(value: Any, distribution: Any) -> Any:
    """Return a continuous value with four digits: nobody needs more of a learning rate."""
    if isinstance(value, float) and getattr(distribution, "step", 0) is None:
        return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)
    return value
