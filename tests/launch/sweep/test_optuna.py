"""The search, with a launcher whose members reach a known value at once."""

import json
import math
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rlpost.errors import UserError
from rlpost.launch.sweep.optuna import Goal, OptunaSweeper, SearchSampler, objective, search_space
from rlpost.tracking.files.sweep_record import MemberRecord

PEAK = 1e-5


class Members:
    """A launcher: accuracy falls with the distance of the learning rate from ``PEAK``."""

    n_jobs = 2

    def __init__(self, root: Path, *, code=lambda overrides: 0):
        self.root, self.code, self.batches = root, code, []

    def launch(self, job_overrides, initial_job_idx):
        assert initial_job_idx == sum(map(len, self.batches))
        self.batches.append([list(each) for each in job_overrides])
        return [self._run(list(each)) for each in job_overrides]

    def _run(self, overrides):
        run_dir = self.root / ",".join(overrides).replace("/", "_")
        run_dir.mkdir(exist_ok=True)
        values = dict(each.split("=", 1) for each in overrides)
        distance = abs(math.log10(float(values["trainer.lr"]) / PEAK))
        rows = [{"step": 0, "time_s": 0, "val-core/x/acc/mean@1": 0.9},
                {"step": 4, "time_s": 1, "val-core/x/acc/mean@1": 1 - distance, "loss": distance},
                {"step": 5, "time_s": 1, "critic/score/mean": 0.0}]  # fmt: skip
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (run_dir / "metrics.jsonl").write_text(lines)
        record = MemberRecord(
            name=run_dir.name, number=0, run_dir=str(run_dir), overrides=(), token="t"
        )
        job = JobReturn()
        job.status = JobStatus.COMPLETED
        job.return_value = record.ended(self.code(overrides))
        return job


LR = "trainer.lr=tag(log, interval(1e-7, 1e-3))"


def _search(root, *arguments, members=None, **options):
    sweeper = OptunaSweeper(**{"n_trials": 12, "seed": 1, **options})
    sweeper.launcher = members or Members(root)
    sweeper.sweep(list(arguments) or [LR])
    return sweeper.launcher.batches


def _rates(batches):
    return [float(each[-1].split("=")[1]) for batch in batches for each in batch]


def test_the_space_follows_hydras_words():
    space, fixed = search_space(
        ["experiment=quickstart", "seed=1,2", "loss=clip,gspo", "a=int(interval(1,9))", LR,
         "b=range(2,9,2)", "c=interval(0.0,1.0)", "+d.e=3"]
    )  # fmt: skip
    assert fixed == ["experiment=quickstart", "+d.e=3"]
    assert space == {
        "seed": CategoricalDistribution([1, 2]),
        "loss": CategoricalDistribution(["clip", "gspo"]),
        "a": IntDistribution(1, 9),
        "trainer.lr": FloatDistribution(1e-7, 1e-3, log=True),
        "b": IntDistribution(2, 8, step=2),
        "c": FloatDistribution(0.0, 1.0),
    }


def test_the_command_line_wins_over_the_recipe():
    space, fixed = search_space([LR, "trainer.lr=1e-5", "seed=1,2"])
    assert list(space) == ["seed"] and fixed == ["trainer.lr=1e-05"]
    with pytest.raises(UserError, match="no option varies"):
        search_space(["seed=1"])


def test_it_finds_the_peak_better_than_chance(tmp_path):
    batches = _search(tmp_path, "seed=3", LR, n_trials=40)
    assert [len(batch) for batch in batches] == [2] * 20  # as many as run at once
    assert all(each[0] == "seed=3" for batch in batches for each in batch)
    rates = _rates(batches)
    near = [abs(math.log10(rate / PEAK)) < 0.5 for rate in rates]
    assert sum(near[20:]) > 2 * sum(near[:10])
    assert all(1e-7 <= rate <= 1e-3 for rate in rates)
    for batch in batches:  # what is chosen can be typed, and read
        (parsed,) = OverridesParser.create().parse_overrides([batch[0][-1]])
        assert len(batch[0][-1]) <= len("trainer.lr=1.234e-05") and parsed.value() > 0


def test_the_goal_decides_the_direction(tmp_path):
    options = {"metric": "loss", "goal": Goal.minimize}
    assert _rates(_search(tmp_path, **options)) == _rates(_search(tmp_path))  # 1 - loss
    assert _rates(_search(tmp_path, metric="loss")) == _rates(_search(tmp_path, **options))
    away = _rates(_search(tmp_path, n_trials=40, metric="loss", goal=Goal.maximize))
    near = _rates(_search(tmp_path, n_trials=40))
    distances = [[abs(math.log10(rate / PEAK)) for rate in each[20:]] for each in (near, away)]
    assert 2 * sum(distances[0]) < sum(distances[1])


def test_a_metric_whose_name_does_not_tell_needs_a_goal(tmp_path):
    with pytest.raises(UserError, match=r"hydra\.sweeper\.goal must be .* metric a/b"):
        _search(tmp_path, metric="a/b")
    assert _search(tmp_path, metric="a/b", goal=Goal.minimize)


def test_the_same_command_asks_for_the_same_members(tmp_path):
    assert _search(tmp_path) == _search(tmp_path)
    assert _search(tmp_path) != _search(tmp_path, seed=2)
    assert _search(tmp_path) != _search(tmp_path, sampler=SearchSampler.random)


def test_members_that_fail_are_not_learned_from_and_not_the_end(tmp_path):
    members = Members(tmp_path, code=lambda each: 1 if float(each[0].split("=")[1]) < PEAK else 0)
    rates = _rates(_search(tmp_path, members=members, n_trials=20))
    assert len(rates) == 20


def test_an_interruption_ends_the_search(tmp_path):
    members = Members(tmp_path, code=lambda each: 130)
    assert len(_search(tmp_path, members=members)) == 1


def test_choices_that_come_twice_run_once(tmp_path):
    batches = _search(tmp_path, "trainer.lr=1e-5,1e-6", n_trials=12, batch_size=6)
    assert all(len(batch) <= 2 for batch in batches)
    assert _rates(batches)


def test_the_objective_is_the_last_value_of_a_finished_run(tmp_path):
    job = Members(tmp_path)._run(["trainer.lr=1e-05"])
    record = job.return_value
    reached = objective(record, metric=None)
    assert (reached.value, reached.lowest_is_best) == (pytest.approx(1.0), False)
    reached = objective(record, metric="loss")
    assert (reached.value, reached.lowest_is_best) == (pytest.approx(0.0, abs=1e-9), True)
    assert objective(record, metric="nothing") is None
    assert objective(record.ended(1), metric=None) is None


@pytest.mark.parametrize("name", ["n_trials", "batch_size"])
def test_options_out_of_range_are_refused(name):
    with pytest.raises(UserError, match=rf"hydra\.sweeper\.{name} must be in \[1, .*got 0"):
        OptunaSweeper(**{name: 0})
