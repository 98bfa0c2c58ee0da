"""Judges that fail, hang or return what is no number, beside a good one, in real workers."""

import asyncio

import pytest

from rlpost.verifiers.base import TIMEOUT, Sample
from rlpost.verifiers.combine import Combination, RewardsConfig, Rule
from rlpost.verifiers.configured import configured
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.kinds.math import MathConfig
from rlpost.verifiers.workers.service import VerifierService

FUNCTIONS = """
import os, time

def fails(completions, **columns): raise RuntimeError("no")
def hangs(completions, **columns): time.sleep(60)
def dies(completions, **columns): os._exit(3)
def nan(completions, **columns): return [float("nan")] * len(completions)
def text(completions, **columns): return ["1"] * len(completions)
"""
BROKEN = {"fails": "no", "hangs": TIMEOUT, "dies": "died", "nan": "nan", "text": "not a number"}
SAMPLES = [Sample(prompt="2 * 3?", text=text, columns={"answer": "6"}) for text in ("6", "7")]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Of ``math`` and every broken function, on a right response and a wrong one."""
    file = tmp_path_factory.mktemp("several") / "rewards.py"
    file.write_text(FUNCTIONS)
    named = {
        name: FunctionConfig(path=f"{file}:{name}", timeout_s=0.5 if name == "hangs" else 30.0)
        for name in BROKEN
    }
    service = VerifierService(configured(MathConfig(), named), num_workers=2)
    try:
        return asyncio.run(service.judge(SAMPLES))
    finally:
        service.close()


def test_each_says_what_is_wrong_and_costs_the_good_one_nothing(verdicts):
    for of_sample, right in zip(verdicts, (1.0, 0.0), strict=True):
        good, *broken = of_sample
        assert good.reward == right
        assert [each.verifier for each in broken] == list(BROKEN)
        for each in broken:
            assert each.reward is None and BROKEN[each.verifier] in each.error


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("rule", list(Rule))
def test_no_rule_makes_a_reward_of_it(verdicts, rule, broken):
    rewards = RewardsConfig(rule=rule, gates=["math"] if rule is Rule.gate else [])
    for of_sample, right in zip(verdicts, (1.0, 0.0), strict=True):
        for weights in ({broken: 1.0, "math": 1.0}, {"math": 1.0, broken: 1.0}):
            decided = rule is Rule.first and next(iter(weights)) == "math"
            found = Combination(weights=weights, rewards=rewards).judged(of_sample)[1]
            assert found == (right if decided else None)
        idle = Combination(weights={broken: 0.0, "math": 1.0}, rewards=RewardsConfig())
        assert idle.judged(of_sample)[1] == right
