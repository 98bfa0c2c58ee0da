"""A checkpoint goes on at another number of ranks, ZeRO stage and dtype: real DeepSpeed, gloo.

Masters and moments must be those that the writer had, bit for bit and as DeepSpeed itself
tells them; the next gradient and update those of the writer that went on.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from rank_processes import run_ranks

from rlpost.stages.resume_point import config_hash

SCRIPT = Path(__file__).with_name("reshape_rank.py")
STAGES = (0, 1, 2, 3)
# Some 85 CPU seconds; on a busy machine the ranks wait for each other.
pytestmark = pytest.mark.timeout(900)
# Largest relative difference of the next gradient, and of the update it makes.
BOUNDS = {"float32": (1e-5, 1e-4), "bfloat16": (1e-2, 1e-2)}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a role is trained: what a checkpoint must not depend on, but for ``steps``."""

    role: str
    ranks: int
    stage: int
    dtype: str = "float32"
    steps: int = 2


def critic(ranks: int, stage: int, **options) -> Shape:
    return Shape(role="critic", ranks=ranks, stage=stage, **options)


def policy(ranks: int, stage: int) -> Shape:
    return Shape(role="policy", ranks=ranks, stage=stage)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A state written at one shape and loaded at another."""

    written: Shape
    loaded: Shape
    control: str = "none"

    def __str__(self) -> str:
        w, n = self.written, self.loaded
        return f"{w.role}{w.steps}:{w.ranks}x{w.stage}{w.dtype}-{n.ranks}x{n.stage}{n.dtype}"


BF16 = {"dtype": "bfloat16"}
FROM_1 = [
    *(Case(written=critic(1, a), loaded=critic(2, 3 - a)) for a in STAGES),
    Case(written=critic(1, 2, steps=0), loaded=critic(2, 3, steps=0)),
    Case(written=critic(1, 2, **BF16), loaded=critic(2, 1, **BF16)),
]
FROM_2 = [
    *(Case(written=critic(2, a), loaded=critic(1, 3 - a)) for a in STAGES),
    Case(written=policy(2, 2), loaded=policy(1, 3)),
    Case(written=critic(2, 2, steps=0), loaded=critic(1, 3, steps=0)),
    *(Case(written=critic(2, a, **BF16), loaded=critic(1, 3 - a, **BF16)) for a in STAGES),
    Case(written=critic(2, 2, **BF16), loaded=critic(1, 3)),
    Case(written=critic(2, 3), loaded=critic(1, 1, **BF16)),
]
SAME = [Case(written=critic(2, stage), loaded=critic(2, stage)) for stage in (1, 2, 3)]
FORGETFUL, STALE = (
    Case(written=critic(2, 2), loaded=critic(1, 3), control=c) for c in ("forget", "stale")
)


class Runs:
    """Runs ranks that write and load in one directory."""

    def __init__(self, place: Path, models: dict[str, str]) -> None:
        self.place, self.models = place, models

    def __call__(
        self, *, ranks: int, write: Iterable[Shape] = (), load: Iterable[Case] = ()
    ) -> dict[Case, dict[str, float]]:
        load = list(load)
        plan = {
            "models": self.models,
            "write": [(self.directory(shape), asdict(shape)) for shape in dict.fromkeys(write)],
            "load": [
                (self.directory(c.written), asdict(c.written), asdict(c.loaded), c.control)
                for c in load
            ],
        }
        (self.place / "plan.json").write_text(json.dumps(plan))
        answers = run_ranks(
            SCRIPT,
            self.place,
            ranks=ranks,
            first=[str(self.place / "plan.json")],
            control="none",
            num_ports=len(plan["write"]) + len(plan["load"]),
        )
        return dict(zip(load, answers, strict=True))

    def directory(self, shape: Shape) -> str:
        return str(self.place / "-".join(map(str, asdict(shape).values())))


@pytest.fixture(scope="module")
def found(tmp_path_factory, tiny_model, tiny_reward) -> dict[Case, dict[str, float]]:
    """Every case's differences, from three starts of ranks: importing takes the time."""
    models = {"policy": str(tiny_model), "critic": str(tiny_reward)}
    runs = Runs(tmp_path_factory.mktemp("reshape"), models)
    runs(ranks=1, write=(case.written for case in FROM_1))
    in_2 = [*FROM_1, *SAME]
    by_2 = runs(ranks=2, write=(case.written for case in [*FROM_2, *SAME]), load=in_2)
    return by_2 | runs(ranks=1, load=[*FROM_2, FORGETFUL, STALE])


@pytest.mark.parametrize("case", [*FROM_1, *FROM_2, *SAME], ids=str)
def test_the_state_is_the_same_and_so_is_the_next_step(found, case):
    written, loaded, result = case.written, case.loaded, found[case]
    assert result["differing"] == 0, result
    assert result["stale"] == 0, result
    if written.dtype == loaded.dtype:
        gradient, after = BOUNDS[written.dtype]
        assert result["gradient"] < gradient, result
        assert result["after"] < after, result
    if written == loaded:
        assert result["after_equal"], result


def test_a_forgotten_moment_is_noticed(found):
    assert found[FORGETFUL]["differing"] > 10
    assert found[FORGETFUL]["after"] > 0.1


def test_weights_that_do_not_follow_the_masters_are_noticed(found):
    assert found[STALE]["stale"] > 10
    assert found[STALE]["gradient"] > 0.1


def test_a_run_may_be_resumed_at_another_shape():
    def hashed(**trainer):
        return config_hash({"trainer": {"num_ranks": 1, "zero_stage": 2, "lr": 1e-6} | trainer})

    assert hashed(num_ranks=2) == hashed(zero_stage=3) == hashed()
    assert hashed(lr=2e-6) != hashed()
