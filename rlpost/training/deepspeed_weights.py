"""Full weights out of a sharded engine.

Owns the gathering for publication and export. Refuses to own transport. Invariant: names,
order and values are those of the Hugging Face model's ``named_parameters()`` (so a tied
``lm_head`` is absent), in the compute dtype, on every rank alike.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlpost.errors import UserError
from rlpost.umask import follow_umask

BUCKET_BYTES = 64 * 2**20

Shapes = list[tuple[str, torch.dtype, tuple[int, ...]]]


def weight_shapes(model: nn.Module) -> Shapes:
    """Name, dtype and full shape of each parameter, in ``iter_weights``'s order."""
    return [
        (name, param.dtype, tuple(getattr(param, "ds_shape", param.shape)))
        for name, param in model.named_parameters()
    ]


def iter_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield full tensors, contiguous, on the compute device.

    Collective under ZeRO-3: every rank must exhaust it. A tensor may be the live weight:
    copy it before asking for the next one or training on.
    """
    for bucket in _buckets(list(model.named_parameters())):
        with _gathered([param for _, param in bucket]):
            for name, param in bucket:
                yield name, param.detach().contiguous()


def _buckets(
    named: Sequence[tuple[str, nn.Parameter]],
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    bucket: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, param in named:
        bytes_here = getattr(param, "ds_numel", param.numel()) * param.element_size()
        if bucket and size + bytes_here > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, param))
        size += bytes_here
    if bucket:
        yield bucket


def _gathered(params: list[nn.Parameter]) -> Any:
    if not any(hasattr(param, "ds_id") for param in params):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(params)


def save_pretrained(model: nn.Module, directory: Path, *, tokenizer_path: str, write: bool) -> None:
    """Write a ``save_pretrained`` directory with tokenizer and chat template.

    Collective; only the rank with ``write`` keeps the tensors (in host memory) and writes.
    """
    state = _full_state(model, keep=write)
    if write:
        _write(model, state, directory, tokenizer_path)


def save_classifier(
    critic: nn.Module, directory: Path, *, tokenizer_path: str, write: bool
) -> None:
    """Write a critic (``model`` and ``score``) as a sequence classifier with one label.

    Collective like ``save_pretrained``.

    Raises:
        UserError: transformers has no classifier of this architecture; on every rank.
    """
    shell, prefix = _classifier_shell(critic.model.config)
    state = _full_state(critic, keep=write)
    if write:
        state = {
            f"{prefix}.{name.removeprefix('model.')}" if name.startswith("model.") else name: tensor
            for name, tensor in state.items()
        }
        assert state.keys() == shell.state_dict().keys(), state.keys() ^ shell.state_dict().keys()
        _write(shell, state, directory, tokenizer_path)


def _classifier_shell(config: Any) -> tuple[nn.Module, str]:
    """Return an empty classifier of the decoder's architecture and its decoder's name in it."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(config)
    config.num_labels = 1
    config.architectures = None  # save_pretrained fills in the classifier's
    try:
        with torch.device("meta"):
            shell = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(
            f"critic: {type(config).__name__} has no sequence classifier in transformers, so the "
            f"critic cannot be exported as a reward model: {error}"
        ) from error
    decoder = shell.get_decoder()
    (prefix,) = (name for name, module in shell.named_modules() if module is decoder)
    return shell, prefix


def _full_state(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    if not keep:
        for _ in iter_weights(model):
            pass
        return {}
    state = {name: tensor.cpu().clone() for name, tensor in iter_weights(model)}
    params = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return state | {k: v.cpu() for k, v in model.state_dict().items() if k not in params}


def _write(
    model: nn.Module, state: dict[str, Tensor], directory: Path, tokenizer_path: str
) -> None:
    from transformers import AutoTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, state_dict=state)
    AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(directory)
    follow_umask(directory)
