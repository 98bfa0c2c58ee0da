"""Published times and memory, and what ``rlpost plan``'s arithmetic says of each.

Owns the reading of ``published_figures.yaml`` and ``sealed_figures.yaml``, the rule that divides
the first in two halves, and the prediction of a figure. The fit is
``benchmarks/calibrate_plan.py``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rlpost.models.shape import Experts, ModelShape
from rlpost.roofline.devices import BY_NAME
from rlpost.roofline.efficiency import EFFICIENCY, Efficiency
from rlpost.roofline.generation import Engines, Requests, generation_s, room_tokens
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.pushing import push_s
from rlpost.roofline.training import Layout, forward_s, update_s
from rlpost.roofline.work import BYTES, attention_flops, multiplied
from rlpost.training.memory import trained_footprint
from rlpost.training.settings import TrainerConfig

GIB = 2**30
SEEN, SEALED = "published_figures", "sealed_figures"
_PARALLEL = ("tensor", "pipeline", "chunks", "expert", "context", "zero_stage")


def read(file: str = SEEN) -> dict[str, Any]:
    """Return a file: ``shapes``, ``sources`` and ``figures``."""
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{file}.yaml").read_text())
    return content


def shapes() -> dict[str, ModelShape]:
    """Return the models of all figures, by name."""
    found = {}
    for name, sizes in (read()["shapes"] | read(SEALED)["shapes"]).items():
        experts = sizes.pop("experts", None)
        found[name] = ModelShape(**sizes, experts=Experts(**experts) if experts else None)
    return found


def halves() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the figures to fit and those to judge by: every second, sorted by source and name."""
    figures = sorted(read()["figures"], key=lambda each: (each["source"], each["what"]))
    return figures[0::2], figures[1::2]


def sealed(*, memory: bool = False) -> list[dict[str, Any]]:
    """Return the figures of time, or of memory, that no choice was made with."""
    figures = read(SEALED)["figures"]
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
            seconds = generation_s(
                shape, BY_NAME[figure["device"]], _engine(figure), _load(figure), k=k
            )
            prompt = figure["prompt_tokens"] if figure["unit"] == "tokens/s with prompts" else 0
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
    bandwidth = figure.get("memory_bandwidth", device.memory_bandwidth)
    device = replace(device, memory_bandwidth=bandwidth)
    layout = _layout(figure, figure["devices"])
    if figure["source"] == "llm-foundry":
        k = replace(k, attention=k.early_attention)
    length = figure["length"]
    tokens = figure.get("step_tokens", figure["micro_batch"] * layout.replicas)
    seconds = update_s(shape, device, layout, tokens=tokens, length=length, k=k)
    if figure["unit"] == "s":
        return seconds
    rate = tokens / seconds / layout.devices
    if figure["unit"] == "TFLOP/s/device":
        return 3e-12 * rate * (2 * multiplied(shape) + attention_flops(shape) * length / 2)
    return rate


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
    return Engines(number=1, tensor=figure["tensor"], most_sequences=figure["most"])


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
