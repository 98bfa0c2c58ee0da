"""Who answers for the start, and the proof that policy and reference begin alike."""

import asyncio

import numpy as np
import pytest

from rlpost.cluster.session import ClusterConfig
from rlpost.errors import RunFailed
from rlpost.stages.start_reference import require_same_start, score_beside, start_reference
from rlpost.training.settings import DType, TrainerConfig

SEQUENCES = [list(range(9)), list(range(5, 200)), [1, 2]]


class Scores:
    """A group whose log-probs are token ids, moved by what its adapter adds."""

    def __init__(self, *, adds: float = 0.0) -> None:
        self.adds, self.asked, self.slept = adds, [], 0
        self.order = []

    async def comes(self) -> None:
        self.order.append("engines leave")

    async def score(self, packed, *, temperature=1.0, adapter=True):
        self.asked.append(adapter)
        moved = self.adds if adapter else 0.0
        return [
            [b.token_ids_T[b.token_R].astype(np.float32) + moved for b in mine]
            for mine in packed.batches
        ]

    async def sleep(self) -> int:
        self.slept += 1
        self.order.append("sleeps")
        return 1


def difference(policy, reference, *, dtype=DType.float32, num_ranks=2) -> float:
    cfg = TrainerConfig(dtype=dtype, num_ranks=num_ranks, max_tokens_per_micro_batch=140)
    score = score_beside(reference, policy=policy, cfg=ClusterConfig(offload_idle=True))
    found = require_same_start(score, policy=policy, sequences=SEQUENCES, cfg=cfg)
    return asyncio.run(found)


def test_without_a_frozen_copy_the_policy_answers_without_its_adapter():
    policy = Scores()
    assert difference(policy, start_reference(None, policy=policy)) == 0
    assert (policy.asked, policy.slept) == ([True, False], 0)  # it stays in memory


def test_a_frozen_copy_is_asked_while_the_policy_sleeps():
    policy, frozen = Scores(), Scores()
    assert start_reference(frozen, policy=policy) is frozen
    assert difference(policy, frozen) == 0
    assert (policy.slept, frozen.slept) == (1, 1)
    assert policy.order == ["engines leave", "sleeps"]  # they may be where the frozen copy comes


@pytest.mark.parametrize(("dtype", "moved"), [(DType.float32, 2e-4), (DType.bfloat16, 0.06)])
def test_another_start_ends_the_run(dtype, moved):
    """As the base under a continued adapter would be: the policy begins elsewhere."""
    policy = Scores(adds=moved)
    with pytest.raises(RunFailed, match=r"policy and reference differ by .* nats on average"):
        difference(policy, start_reference(None, policy=policy), dtype=dtype)
    with pytest.raises(RunFailed, match="not what training starts from"):
        difference(Scores(adds=np.nan), Scores(), dtype=dtype)
