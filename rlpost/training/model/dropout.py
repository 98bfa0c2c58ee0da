"""Randomness in a model's forward pass: switched off, whatever it is called.

Owns drop-out and router noise of any architecture. Refuses to own the check that nothing
random is left (loading.py compares forward passes). Invariant: a ratio of 1 must stay
1, so the same tokens and weights always give the same log-probs, in training mode too.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

# Probabilities and noise go by many names: attention_dropout, resid_pdrop, layerdrop,
# drop_path_rate, router_jitter_noise. All of them are floats.
_RANDOM = re.compile(r"drop|jitter")


def switch_off_dropout(model: nn.Module) -> None:
    """Set every drop-out probability and router noise of ``model`` and its configs to 0."""
    for owner in _owners(model):
        for name, value in list(vars(owner).items()):
            if isinstance(value, float) and _RANDOM.search(name):
                setattr(owner, name, 0.0)
        if isinstance(owner, _DropoutNd):
            owner.p = 0.0


def _owners(model: nn.Module) -> Iterator[Any]:
    configs: dict[int, Any] = {}
    for module in model.modules():
        yield module
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "__dict__"):
            configs[id(config)] = config
    yield from configs.values()


@torch.no_grad()
def is_random(forward: Callable[[], Tensor]) -> bool:
    """Whether two calls in a row differ; the state of torch's generators is kept."""
    with torch.random.fork_rng():
        first = forward()
        return not torch.equal(first, forward())
