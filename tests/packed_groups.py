"""Random groups, and the plain computation that packed training must equal."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from episodes import episode, trajectory
from torch import Tensor

from rlpost.algorithms.reduce import ReductionConfig
from rlpost.stages.rl.units import Packing, pack_to_train
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import TrainerConfig
from rlpost.types import Group, Prompt

Sequences = list[tuple[list[int], list[int]]]  # (prompt, response)


def random_groups(
    *, num_prompts: int = 6, group_size: int = 3, seed: int = 0, vocabulary: int = 256
) -> tuple[list[Group], np.ndarray]:
    """Ragged groups with advantages of both signs; rollout log-probs are about log(1/V)."""
    rng = np.random.default_rng(seed)
    groups = []
    for p in range(num_prompts):
        prompt_ids = tuple(rng.integers(0, vocabulary, rng.integers(3, 9)).tolist())
        episodes = []
        for g in range(group_size):
            length = int(rng.integers(1, 12))
            sampled = trajectory(
                rng.integers(0, vocabulary, length).tolist(),
                prompt_ids=prompt_ids,
                logprobs=rng.normal(-5.5, 1.5, length).tolist(),
            )
            episodes.append(episode(sampled, uid=f"0:{p}", sample=g, reward=0.0))
        prompt = Prompt(uid=f"0:{p}", token_ids=prompt_ids, text="")
        groups.append(Group(prompt=prompt, episodes=tuple(episodes)))
    return groups, rng.normal(size=(num_prompts, group_size))


def pack_into(
    groups: Sequence[Group],
    advantages: np.ndarray,
    *,
    num_ranks: int = 1,
    num_micro_batches: int = 1,
    share_prompts: bool = True,
) -> Packed:
    """Pack with the largest token budget that gives ``num_micro_batches`` a rank."""
    everything = sum(
        len(t.prompt_ids) + len(t.response_ids)
        for g in groups
        for e in g.episodes
        for t in e.trajectories
    )
    for max_tokens in range(everything, 20, -1):
        packing = Packing(num_ranks=num_ranks, max_tokens=max_tokens, share_prompts=share_prompts)
        packed = pack_to_train(
            groups, advantages[..., None], packing=packing, reduction=ReductionConfig()
        )
        if len(packed.batches[0]) == num_micro_batches:
            return packed
    raise AssertionError("no budget gives that many micro-batches")


def with_columns(batch: MicroBatch, **columns: np.ndarray) -> MicroBatch:
    """The batch with other columns, or more of them."""
    return replace(batch, columns={**batch.columns, **columns})


def sequences_of(batch: MicroBatch) -> Sequences:
    """Undo the packing: (prompt, response) token ids in the order of R."""
    ids = batch.token_ids_T.tolist()
    return [
        (ids[slice(*block.prompt)], ids[slice(*response)])
        for block in batch.blocks
        for response in block.responses
    ]


def plain_scores(model, batch: MicroBatch, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (R,) by one ordinary forward pass per sequence."""
    logprobs, entropies = [], []
    for prompt, response in sequences_of(batch):
        logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
        log_RV = (logits[len(prompt) - 1 : -1].float() / temperature).log_softmax(-1)
        logprobs.append(log_RV.gather(1, torch.tensor(response)[:, None]).squeeze(1))
        entropies.append(-(log_RV.exp() * log_RV).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def load_plain(path, *, attention: str = "sdpa"):
    """The model as transformers gives it, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation=attention
    )


def load_policy(path, *, logprob_chunk: int = 16, dtype=torch.float32, **options):
    """The model as a trainer loads it, to give log-probs."""
    cfg = TrainerConfig(logprob_chunk=logprob_chunk)
    return TrainedModel.policy(str(path), cfg).load(dtype=dtype, **options)


def relative_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """L2 norm of the difference over that of ``theirs``, all tensors together."""
    assert ours.keys() == theirs.keys()
    difference = sum((ours[n].double() - theirs[n].double()).square().sum() for n in ours)
    return float((difference / sum(t.double().square().sum() for t in theirs.values())).sqrt())
