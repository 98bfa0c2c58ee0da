"""Log-probs of a model in plain transformers, alone or with an adapter in plain peft.

Owns the reference that everything else here is compared with: it shares no arithmetic with what
merges, trains or serves. Refuses to own what is scored and what follows. One model is in memory at
a time.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlpost.foreign_output import logged_output, quiet_bitsandbytes


def load_plain(directory: Path, *, dtype: torch.dtype = torch.float32) -> Any:
    """Return the model in a directory, on the CPU."""
    from transformers import AutoModelForCausalLM

    with logged_output():
        return AutoModelForCausalLM.from_pretrained(str(directory), dtype=dtype)


def with_adapter(model: Any, adapter: Path) -> Any:
    """Put the adapter in a directory on a model, which it changes until ``unload()``."""
    quiet_bitsandbytes()
    from peft import PeftModel

    with logged_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, str(adapter))


@torch.no_grad()
def sequence_logprobs(model: Any, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the log-prob, in nats and float32, of every token after the first of each sequence."""
    model.eval()
    found = []
    for ids in sequences:
        tokens_1T = torch.tensor([list(ids)])
        logprobs_TV = model(input_ids=tokens_1T).logits[0, :-1].float().log_softmax(-1)
        found.append(logprobs_TV.gather(1, tokens_1T[0, 1:, None])[:, 0])
    return found
