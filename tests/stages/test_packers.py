"""Every stage's packer balances ranks by the work that the model has, and the stages say which."""

import numpy as np
import pytest
from episodes import episode, trajectory

from rlpost.algorithms.advantages import GRPOConfig
from rlpost.algorithms.losses import ClipConfig
from rlpost.config.schema import AlgorithmConfig, RLConfig
from rlpost.data.example import Example
from rlpost.stages.learning.settings import SupervisedTrainerConfig
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.reward.batch import PairPacker
from rlpost.stages.rl.batch import scoring_batch
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.packing.work import BY_TOKENS, ForwardWork
from rlpost.training.settings import TrainerConfig
from rlpost.types import Group, Prompt
from rlpost.verifiers.kinds.exact import ExactConfig

# Responses to a prompt of one token. By tokens (8, 2) and (4, 4) are even; by pairs of tokens 8
# alone has more than half.
LENGTHS = (8, 4, 4, 2)
PAIRS_ALONE = ForwardWork(body=0, head=0, attention=1)
LAYOUT = {"num_ranks": 2, "max_tokens": 60}


def examples(*, copies: int) -> list[Example]:
    return [
        Example(
            ids=np.array([p, *[7] * length], np.int32),
            trained=np.arange(length + 1) > 0,
            address=f"rows:{p}",
            uid=f"s:0:{p}",
            labels=np.zeros(1, np.float32),
        )
        for p, length in enumerate(LENGTHS)
        for _ in range(copies)
    ]


def groups() -> list[Group]:
    def one(p: int, length: int) -> Group:
        sampled = trajectory([7] * length, prompt_ids=(p,), logprobs=[-1.0] * length)
        prompt = Prompt(uid=f"0:{p}", token_ids=(p,), text="")
        return Group(prompt=prompt, episodes=(episode(sampled, uid=f"0:{p}", reward=0.0),))

    return [one(p, length) for p, length in enumerate(LENGTHS)]


def rl_batch(work):
    trainer = TrainerConfig(num_ranks=2, max_tokens_per_micro_batch=60)
    algorithm = AlgorithmConfig(advantage=GRPOConfig())
    cfg = RLConfig(verifier=ExactConfig(), loss=ClipConfig(), algorithm=algorithm, trainer=trainer)
    return scoring_batch(groups(), cfg, work=work)


PACKERS = {
    "rl": rl_batch,
    "supervised": lambda work: ExamplePacker(work=work, **LAYOUT)(examples(copies=1)),
    "reward": lambda work: PairPacker(work=work, **LAYOUT)(examples(copies=2)),
    "preference": lambda work: ResponsePacker(work=work, judged=False, **LAYOUT)(
        examples(copies=2)
    ),
}


@pytest.mark.parametrize("name", PACKERS)
def test_a_packer_balances_by_work(name):
    def prompts(work):
        (first,), (second,) = PACKERS[name](work).batches
        return {tuple(sorted(b.token_ids_T[b.position_ids_T == 0])) for b in (first, second)}

    assert prompts(BY_TOKENS) == {(0, 3), (1, 2)}
    assert prompts(PAIRS_ALONE) == {(0,), (1, 2, 3)}


def test_an_example_packer_knows_the_model_that_is_trained(tiny_model):
    packer = ExamplePacker.of(SupervisedTrainerConfig(), model_path=str(tiny_model))
    assert packer.work == ForwardWork.of_model(str(tiny_model)) != BY_TOKENS
