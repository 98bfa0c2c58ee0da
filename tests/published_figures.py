"""Published times and memory, and what ``rlpost plan``'s arithmetic says of each.

Owns the reading of the three files, the rule that divides the first in two halves, and the
prediction of a figure. The fit is ``benchmarks/calibrate_plan.py``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rlpost.models.shape import Experts, ModelShape
from rlpost.roofline.communication import Layout
from rlpost.roofline.decoding import Engines, room_tokens
from rlpost.roofline.devices import BY_NAME
from rlpost.roofline.efficiency import EFFICIENCY, Efficiency
from rlpost.roofline.generation import Requests, generation_s
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.pushing import push_s
from rlpost.roofline.training import forward_s, update_s
from rlpost.roofline.work import BYTES, attention_flops, multiplied
from rlpost.training.memory import trained_footprint
from rlpost.training.settings import TrainerConfig

GIB = 2**30
SEEN, OPENED, SEALED = "published_figures", "opened_figures", "sealed_figures"
_PARALLEL = (
    "tensor", "pipeline", "chunks", "expert", "context", "zero_stage", "attends_again",
)  # fmt: skip
# Kernels of attention, where they are not FlashAttention 2: those of 2023 in one source,
# FlashAttention 3 or cuDNN's (by Transformer Engine) in others.
_ATTENTION = {
    "llm-foundry": "early", "prime-rl": "hopper", "automodel": "hopper", "nemo-rl": "hopper",
    "nemo-rl-v0.3": "hopper", "megatron-bridge": "hopper", "megatron-moe-zoo": "hopper",
}  # fmt: skip

# Engines whose scheduler is not in Python, and what it takes that they do not.
_WITHOUT_HOST = {
    "tensorrt-llm": ("host_token_s",), "lmdeploy": ("host_token_s",),
    "gpt-fast": ("host_token_s", "host_s"),
}  # fmt: skip


def read(file: str = SEEN) -> dict[str, Any]:
    """Return a file: ``shapes``, ``sources`` and ``figures``."""
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{file}.yaml").read_text())
    return content


def shapes() -> dict[str, ModelShape]:
    """Return the models of all figures, by name."""
    found = {}
    files = (SEEN, OPENED, SEALED)
    sizes_of = {name: sizes for file in files for name, sizes in read(file)["shapes"].items()}
    for name, sizes in sizes_of.items():
        experts = sizes.pop("experts", None)
        found[name] = ModelShape(**sizes, experts=Experts(**experts) if experts else None)
    return found


def halves() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the figures to fit and those to judge by: every second, sorted by source and name."""
    figures = sorted(read()["figures"], key=lambda each: (each["source"], each["what"]))
    return figures[0::2], figures[1::2]


def figures_of(file: str, *, memory: bool = False) -> list[dict[str, Any]]:
    """Return the figures of time, or of memory, in a file."""
    figures = read(file)["figures"]
    return [each for each in figures if (each["kind"] in ("memory", "cache")) == memory]


def predicted(
    figure: Mapping[str, Any], models: Mapping[str, ModelShape], k: Efficiency = EFFICIENCY
) -> float:
    """Return what the roofline says of a figure, in the figure's unit."""
    shape = models[figure["shape"]]
    match figure["kind"]:
        case "push":
            return push_s(figure["value_bytes"] * shape.parameters, figure["transport"], k=k)
        case "train":
            return _rate(figure, shape, k)
        case "rollout":
            k = replace(k, **dict.fromkeys(_WITHOUT_HOST.get(figure["source"], ()), 0.0))
            seconds = generation_s(
                shape, BY_NAME[figure["device"]], _engine(figure), _load(figure), k=k
            )
            prompt = figure["prompt_tokens"] if figure["unit"] == "tokens/s with prompts" else 0
            if figure["unit"] == "s":
                return seconds
            return figure["prompts"] * figure["samples"] * (prompt + figure["mean"]) / seconds
        case "memory":
            return _memory_gib(figure, shape)
        case "cache":
            engine = Engines(number=1, tensor=figure["tensor"])
            return room_tokens(shape, BY_NAME[figure["device"]], engine)
        case kind:
            assert kind == "step", kind
            return _step_s(figure, shape, k)


def _layout(figure: Mapping[str, Any], devices: int) -> Layout:
    return Layout(
        devices=devices,
        micro_batch_tokens=figure["micro_batch"],
        recomputed=figure["recomputed"],
        **{name: figure[name] for name in _PARALLEL if name in figure},
    )


def _rate(figure: Mapping[str, Any], shape: ModelShape, k: Efficiency) -> float:
    """Return tokens, or useful operations, a second and device, or the seconds of a step."""
    device = BY_NAME[figure["device"]]
    changed = ("memory_bandwidth", "network_bandwidth")
    device = replace(device, **{name: figure[name] for name in changed if name in figure})
    layout = _layout(figure, figure["devices"])
    k = _attending(figure, k)
    length = figure["length"]
    tokens = figure.get("step_tokens", figure["micro_batch"] * layout.replicas)
    seconds = update_s(shape, device, layout, tokens=tokens, length=length, k=k)
    if figure["unit"] == "s":
        return seconds
    rate = tokens / seconds / layout.devices
    if figure["unit"] == "TFLOP/s/device":
        return 3e-12 * rate * (2 * multiplied(shape) + attention_flops(shape) * length / 2)
    return rate


def _attending(figure: Mapping[str, Any], k: Efficiency) -> Efficiency:
    """Return the constants with what the figure's kernels of attention reach."""
    match figure.get("attention", _ATTENTION.get(figure["source"], "flash_2")):
        case "early":
            return replace(k, attention=k.early_attention)
        case "hopper":
            return replace(k, attention=k.hopper_attention)
        case kernels:
            assert kernels == "flash_2", kernels
            return k


def _memory_gib(figure: Mapping[str, Any], shape: ModelShape) -> float:
    cfg = TrainerConfig(
        num_ranks=figure["devices"],
        zero_stage=figure["zero_stage"],
        gradient_checkpointing=bool(figure["recomputed"]),
        logprob_chunk=figure["chunk"],
    )
    tokens = figure["micro_batch"]
    _, gpu = trained_footprint("rank", shape, cfg, num_tokens=tokens, value_bytes=2, on_gpu=True)
    return gpu.peak_bytes / GIB


def _engine(figure: Mapping[str, Any]) -> Engines:
    value_bytes = figure.get("value_bytes", BYTES)
    return Engines(
        number=1,
        tensor=figure["tensor"],
        most_sequences=figure["most"],
        value_bytes=value_bytes,
        fp8=value_bytes < BYTES,
    )


def _load(figure: Mapping[str, Any]) -> Requests:
    return Requests(
        prompts=figure["prompts"],
        samples=figure["samples"],
        prompt_tokens=figure["prompt_tokens"],
        lengths=Lengths(mean=figure["mean"], longest=figure["longest"]),
    )


def _step_s(figure: Mapping[str, Any], shape: ModelShape, k: Efficiency) -> float:
    """Return a step of NeMo RL: it scores twice, by policy and reference, before it trains.

    One step ahead, weights arrive while engines go on generating.
    """
    k = _attending(figure, k)
    device = BY_NAME[figure["device"]]
    generating, ahead = figure["generating"], figure["ahead"]
    training = figure["devices"] - generating if ahead else generating
    layout = _layout({"zero_stage": 2, **figure}, training)
    length = figure["prompt_tokens"] + figure["mean"]
    tokens = figure["prompts"] * figure["samples"] * length
    engines = Engines(
        number=generating // figure["generator_tensor"],
        tensor=figure["generator_tensor"],
        most_sequences=1024,
        memory_share=0.8 if ahead else 0.6,
    )
    generation = generation_s(shape, device, engines, _load(figure), overlapping=1 + ahead, k=k)
    scoring = 2 * forward_s(shape, device, layout, tokens=tokens, length=length, k=k)
    training_s = update_s(
        shape, device, layout, tokens=tokens, length=length, updates=figure["updates"], k=k
    )
    push = push_s(BYTES * shape.parameters, "broadcast", k=k)
    if ahead:
        return max(generation, scoring + training_s + push)
    return generation + scoring + training_s + k.step_s - k.push_s + push
