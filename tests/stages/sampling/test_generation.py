"""Which engines read their weights: those that answer before anything is pushed to them."""

import math
from typing import Any

import pytest

from rlpost.cluster.session import ClusterConfig
from rlpost.control.failures import FailureConfig
from rlpost.control.watchdog import Watchdog
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.stages.sampling.generation import Generation


class Session:
    """Notes how an actor is made, and makes none."""

    def spawn(self, cls: type, *args: Any, **options: Any) -> None:
        self.blank = options["blank"]


@pytest.mark.parametrize(
    ("pushed", "adapters", "blank"),
    [
        (False, None, False),  # an evaluation
        (True, None, True),
        (True, AdapterCapacity.of(rank=8, max_staleness=0), False),  # on the base, which it reads
    ],
)
def test_an_engine_that_gets_a_whole_model_reads_none(pushed, adapters, blank):
    session = Session()
    generation = Generation(
        session,
        GeneratorConfig(),
        model_path="nowhere",
        adapters=adapters,
        pushed=pushed,
        cluster=ClusterConfig(),
        failures=FailureConfig(),
        watchdog=Watchdog(stuck_after_s=math.inf, now_s=0.0),
    )
    generation.supervisor._spawn("generator 0")
    assert session.blank is blank
