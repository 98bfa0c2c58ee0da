"""One rank of tests/system/test_frozen_parts.py: each model divided, and whole beside it.

    python frozen_rank.py CASES.json RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

CASES.json: ``[{"path", "dtype", "judges", "loaded_whole"}..]``. Of a model that gives log-probs,
rank 0 is asked of three micro-batches and each other rank of one; of one that ``judges``, both of
five sequences. With ``loaded_whole`` its files cannot be read in parts. Answers, for each case,
which questions the divided model does not answer as the whole one does, bit for bit, and how far
the scores are apart; how many values are whole at most at a time, and of how many; and the bytes
that left memory in a sleep, and of the whole model. CONTROL: none, or part, which changes the last
rank's part.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from packed_groups import pack_into, random_groups

from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.scorer import FrozenScorer
from rlpost.training.reward.classifier import Classifier
from rlpost.training.reward.reader import ReadResponse
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_classifier import DividedClassifier
from rlpost.training.zero.deepspeed_layers import decoder_layers
from rlpost.training.zero.deepspeed_scorer import DividedScorer
from rlpost.training.zero.rank import Rank

TOP = {"k": 4, "vocabulary": 259}
# Of unequal lengths, in batches of at most 12 tokens: three of them for two ranks.
READINGS = [
    ReadResponse(ids=[(11 * n + k) % 256 for k in range(length)], ends=(1, length - 1)[n % 2 :])
    for n, length in enumerate((4, 9, 12, 3, 5))
]
BATCHES = pack_into(*random_groups(), num_micro_batches=4).batches[0]
PASSES = 3
LOAD_HOLLOW = TrainedModel.load_hollow
ds.PREFETCH_BUCKET = 1  # else all of a tiny model is made whole ahead


def equal(ours, theirs) -> bool:
    assert len(ours) == len(theirs)
    flat = [x if isinstance(x, tuple) else (x,) for x in (*ours, *theirs)]
    half = len(ours)
    return all(
        np.array_equal(a, b)
        for mine, other in zip(flat[:half], flat[half:], strict=True)
        for a, b in zip(mine, other, strict=True)
    )


class Watch:
    """The largest number of values that are whole while a layer computes."""

    def __init__(self, module) -> None:
        self.values = list(module.parameters())
        self.total = sum(each.ds_numel for each in self.values)
        self.most = 0
        head = module.score or module.model.get_output_embeddings()
        for layer in (*decoder_layers(module), head):
            layer.register_forward_hook(self._look)

    def _look(self, *_) -> None:
        self.most = max(self.most, self.whole)

    @property
    def whole(self) -> int:
        return sum(each.numel() for each in self.values)


def scorers(case: dict, place: Rank):
    """Return the divided model, how the whole one is loaded, and the questions."""
    if case.get("judges"):
        cfg = RewardModelConfig(
            path=case["path"],
            threads=1,
            dtype=DType(case["dtype"]),
            max_tokens_per_batch=12,
            num_ranks=place.world_size,
            zero_stage=3,
        )
        divided = DividedClassifier(cfg, model_path=case["path"], field="field", place=place)
        asked = {
            "scores": lambda scorer, **steps: [np.concatenate(scorer.scores(READINGS))],
            "again": lambda scorer, **steps: [np.concatenate(scorer.scores(READINGS[:1]))],
        }
        return divided, lambda: Classifier(cfg, model_path=case["path"]), asked
    cfg = TrainerConfig(dtype=DType(case["dtype"]), threads=1, logprob_chunk=8)
    model = TrainedModel.policy(case["path"], cfg)
    mine = BATCHES[:PASSES] if place.rank == 0 else BATCHES[PASSES + place.rank - 1 :][:1]
    asked = {
        "scores": lambda scorer, **steps: scorer.score(mine, 0.7, **steps),
        "again": lambda scorer, **steps: scorer.score(mine[:1], 1.0, **steps),
        "top": lambda scorer, **steps: scorer.top_tokens(mine, **TOP, temperature=1.0, **steps),
    }
    divided = DividedScorer(cfg, model=model, place=place)
    return divided, lambda: FrozenScorer(cfg, model=model), asked


def compared(case: dict, place: Rank, *, control: str) -> dict:
    whole = case.get("loaded_whole", False)
    TrainedModel.load_hollow = (lambda self, **options: None) if whole else LOAD_HOLLOW
    divided, load_whole, asked = scorers(case, place)
    module = divided._engine.module
    watch = Watch(module)
    if control == "part" and place.rank == place.world_size - 1:
        layer = decoder_layers(module)[0]
        max(layer.parameters(), key=lambda each: each.ds_numel).ds_tensor.mul_(1.5)
    steps = {} if case.get("judges") else {"passes": PASSES}
    ours = {name: ask(divided, **steps) for name, ask in asked.items()}
    slept = divided.sleep()
    held = watch.whole
    ours["awake"] = asked["scores"](divided, **steps)
    asked["awake"] = asked["scores"]
    divided.close()
    whole = load_whole()
    theirs = {name: ask(whole) for name, ask in asked.items()}
    (weights,) = (x for x in vars(whole).values() if isinstance(x, torch.nn.Module))
    return {
        "other": [name for name in asked if not equal(ours[name], theirs[name])],
        "difference": max(
            float(np.abs(a - b).max())
            for a, b in zip(ours["scores"], theirs["scores"], strict=True)
        ),
        "most": watch.most,
        "total": watch.total,
        "held": held,
        "slept": slept,
        "bytes": sum(each.nbytes for each in weights.parameters()),
    }


def main() -> None:
    cases, rank, ranks, ports, result, control = sys.argv[1:]
    place = {"rank": int(rank), "world_size": int(ranks), "master_address": "127.0.0.1"}
    numbers = iter(json.loads(Path(ports).read_text()))
    found = [
        compared(case, Rank(**place, master_port=next(numbers)), control=control)
        for case in json.loads(Path(cases).read_text())
    ]
    assert not torch.distributed.is_initialized()
    for path in (f"{result}.{rank}", *([result] if int(rank) == 0 else [])):
        Path(path).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
