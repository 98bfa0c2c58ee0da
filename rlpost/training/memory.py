"""What a rank that trains, and a frozen model, need in memory.

Owns the arithmetic. Refuses to own the machine. The model states follow the ZeRO paper (arXiv
1910.02054, section 3) with float32 masters; saved activations are counted tensor by tensor for
a Llama layer with a gated feed-forward. What is not arithmetic (interpreter and libraries, the
temporaries of an update) was measured; ``benchmarks/memory.py`` compares sum and reality.
"""

from collections.abc import Sequence

from rlpost.models.footprint import Footprint
from rlpost.models.shape import ModelShape
from rlpost.training.settings import TrainerConfig

GIB = 2**30
BASE_BYTES = 0.85 * GIB  # interpreter, torch, transformers and deepspeed
CUDA_CONTEXT_BYTES = 0.6 * GIB
# Of an update, in copies of the rank's parameters in float32: the gradient once more, flat; on
# CPU also Adam's temporaries, which torch makes for all parameters at a time.
UPDATE_COPIES, UPDATE_COPIES_ON_GPU = 4.2, 1.0
MOST_GATHERED = 1e9  # values that DeepSpeed lets be whole at once at stage 3
LOGIT_COPIES = 3  # logits, their softmax and their gradient


def trained_footprint(
    process: str,
    shape: ModelShape,
    cfg: TrainerConfig,
    *,
    num_tokens: int,
    value_bytes: int,
    on_gpu: bool,
    has_head: bool = True,
    frozen: Sequence[tuple[ModelShape, bool]] = (),
    num_trainable: int | None = None,
    optimizer_bytes: float | None = None,
) -> list[Footprint]:
    """Return one rank's needs: on the host, and on its GPU when it has one.

    Args:
        process: its name.
        shape: of the model.
        cfg: the rank group's.
        num_tokens: of the largest micro-batch, which ranks that share it divide.
        value_bytes: of a weight in the compute dtype: 4 or 2.
        on_gpu: states and activations are there.
        has_head: scores a vocabulary (a policy), not a value (a critic).
        frozen: models that the head asks beside it, and whether the ranks divide them.
        num_trainable: parameters of an adapter beside the model's own, which alone are trained;
            None: there is none, and the model's own are trained.
        optimizer_bytes: what the optimizer keeps of all that is trained; None: AdamW's moments.
    """
    trained = shape.parameters if num_trainable is None else num_trainable
    held = shape.parameters + (num_trainable or 0)
    whole, part = trained, trained / cfg.num_ranks
    optimizer_bytes = 8 * whole if optimizer_bytes is None else optimizer_bytes
    masters = part if cfg.zero_stage else whole
    weights = {"weights": value_bytes * (held / cfg.num_ranks if cfg.zero_stage == 3 else held)}
    states = {
        "gradients": 4 * (part if cfg.zero_stage >= 2 else whole),
        "optimizer's state": optimizer_bytes * (masters / whole),
    }
    if cfg.zero_stage or value_bytes < 4:  # else the weights are the masters
        states["float32 masters"] = 4 * masters
    if cfg.offload_optimizer:  # a second time, laid out for the optimizer
        states["gradients"] *= 2
    if frozen:
        weights["frozen teacher"] = value_bytes * sum(
            _divided_teacher(each, cfg.num_ranks) if is_divided else each.parameters
            for each, is_divided in frozen
        )
    kept = weights | states
    copies = UPDATE_COPIES_ON_GPU if on_gpu else UPDATE_COPIES
    temporaries = {"temporaries of the update": copies * 4 * masters}
    scored = [*([shape] if has_head else []), *(each for each, _ in frozen)]
    logits = LOGIT_COPIES * 4 * cfg.logprob_chunk * sum(each.vocabulary for each in scored)
    phases = {
        "activations and logits": value_bytes * _most_gathered(shape, cfg, frozen)
        + logits
        + -(-num_tokens // cfg.sequence_parallel_size)
        * activation_bytes_per_token(
            shape,
            value_bytes=value_bytes,
            checkpointing=cfg.gradient_checkpointing,
            sharing=cfg.sequence_parallel_size,
        ),
    }
    # On the host, written behind the run.
    copy = {"copy for a checkpoint": 4 * part + optimizer_bytes / cfg.num_ranks}
    base = {"libraries": BASE_BYTES}
    if not on_gpu:
        return [Footprint(process=process, kept=base | kept, phases=phases | temporaries | copy)]
    context = {"CUDA context": CUDA_CONTEXT_BYTES}
    if cfg.offload_optimizer:
        return [
            Footprint(process=process, kept=base | states, phases=copy | temporaries),
            Footprint(process=process, kept=context | weights, phases=phases, on_gpu=True),
        ]
    return [
        Footprint(process=process, kept=base, phases=copy),
        Footprint(process=process, kept=context | kept, phases=phases | temporaries, on_gpu=True),
    ]


def _most_gathered(
    shape: ModelShape, cfg: TrainerConfig, frozen: Sequence[tuple[ModelShape, bool]]
) -> float:
    """Values that are whole for a while of whichever model has the most of them."""
    divided = [shape] if cfg.zero_stage == 3 else []
    divided += [each for each, is_divided in frozen if is_divided]
    return max((_gathered_values(each, cfg.num_ranks) for each in divided), default=0.0)


def _gathered_values(shape: ModelShape, sharing: int) -> float:
    """Values of the layer in use and of the next, which are whole for a while at stage 3."""
    if sharing == 1:
        return 0.0
    outside = _table_values(shape) * (1 if shape.tied else 2)
    return min(MOST_GATHERED, 2 * (shape.parameters - outside) / shape.layers)


def _table_values(shape: ModelShape) -> int:
    """Values of the embedding, or of the output head."""
    return shape.vocabulary * shape.width


def _divided_teacher(shape: ModelShape, sharing: int) -> float:
    """Values that a rank keeps of a teacher in its process: a part, and all of the output head."""
    return shape.parameters / sharing + (_table_values(shape) if sharing > 1 else 0)


def frozen_footprint(
    process: str,
    shape: ModelShape,
    *,
    num_tokens: int,
    value_bytes: int,
    logprob_chunk: int,
    on_gpu: bool,
    sharing: int = 1,
) -> list[Footprint]:
    """Return the needs of a model that only scores: a reference or a reward model.

    ``sharing`` ranks divide its weights; these are the needs of one.
    """
    base = {"libraries": BASE_BYTES}
    kept = {"weights": value_bytes * shape.parameters / sharing}
    one_layer = _layer_values_per_token(shape) * value_bytes * num_tokens
    # The embedding, or the output head, is larger than two layers of a small model.
    whole = max(_gathered_values(shape, sharing), _table_values(shape) if sharing > 1 else 0)
    logits = LOGIT_COPIES * 4 * logprob_chunk * shape.vocabulary
    phases = {"one layer and logits": one_layer + logits + whole * value_bytes}
    if not on_gpu:
        return [Footprint(process=process, kept=base | kept, phases=phases)]
    context = {"CUDA context": CUDA_CONTEXT_BYTES}
    return [
        Footprint(process=process, kept=base),
        Footprint(process=process, kept=context | kept, phases=phases, on_gpu=True),
    ]


def activation_bytes_per_token(
    shape: ModelShape, *, value_bytes: int, checkpointing: bool, sharing: int = 1
) -> float:
    """Bytes that the backward pass needs of one token of a rank, in all layers.

    ``sharing`` ranks divide each micro-batch, which repeats key-value heads that are fewer.
    """
    layer = _layer_values_per_token(shape, sharing=sharing) * value_bytes
    if checkpointing:  # the input of each layer, and one layer being computed again
        return shape.layers * shape.width * value_bytes + layer
    return shape.layers * layer


def _layer_values_per_token(shape: ModelShape, *, sharing: int = 1) -> int:
    """Values that one layer saves: two norms in float32 and half, attention, gated MLP."""
    kv_heads = max(shape.kv_heads, sharing)
    attention = (shape.heads + 2 * kv_heads) * shape.head_dim + shape.heads * shape.head_dim
    return 5 * shape.width + attention + 4 * shape.feed_forward
