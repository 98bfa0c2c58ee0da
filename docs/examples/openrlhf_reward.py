"""One point for the right number, up to a quarter for brevity: as OpenRLHF takes it.

rlpost rl verifier=function verifier.path=docs/examples/openrlhf_reward.py:reward_func
"""

import re

import torch


def reward_func(queries, prompts, labels, **kwargs):
    texts = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts, strict=True)]
    numbers = [re.findall(r"-?\d+", text) for text in texts]
    right = torch.tensor(
        [float(found[-1:] == [str(label)]) for found, label in zip(numbers, labels, strict=True)]
    )
    brevity = torch.tensor([max(0, 64 - len(text)) / 256 for text in texts])
    return {"rewards": right + brevity, "scores": right, "extra_logs": {"right": right}}
