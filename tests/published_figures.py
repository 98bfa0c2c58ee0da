"""Published step times, throughputs and pushes, and what the roofline says of each.

Owns the reading of ``published_figures.yaml``, the rule that divides the figures in two halves, and
the prediction of a figure. The fit is ``benchmarks/calibrate_plan.py``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rlpost.models.shape import Experts, ModelShape
from rlpost.roofline.devices import BY_NAME
from rlpost.roofline.efficiency import EFFICIENCY, Efficiency
from rlpost.roofline.generation import Engines, Requests, generation_s
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.pushing import push_s
from rlpost.roofline.training import Layout, forward_s, update_s
from rlpost.roofline.work import BYTES, attention_flops, multiplied

FILE = Path(__file__).with_name("published_figures.yaml")
_PARALLEL = ("tensor", "pipeline", "chunks", "expert", "context", "zero_stage")


def read() -> dict[str, Any]:
    """Return the file: ``shapes``, ``sources`` and ``figures``."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def shapes() -> dict[str, ModelShape]:
    """Return the models of the figures, by name."""
    found = {}
    for name, sizes in read()["shapes"].items():
        experts = sizes.pop("experts", None)
        found[name] = ModelShape(**sizes, experts=Experts(**experts) if experts else None)
    return found


def halves() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the figures to fit and those to judge by: every second, sorted by source and name."""
    figures = sorted(read()["figures"], key=lambda each: (each["source"], each["what"]))
    return figures[0::2], figures[1::2]


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
            return figure["prompts"] * figure["samples"] * figure["mean"] / seconds
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
    """Return tokens, or useful operations, a second and device."""
    device = BY_NAME[figure["device"]]
    bandwidth = figure.get("memory_bandwidth", device.memory_bandwidth)
    device = replace(device, memory_bandwidth=bandwidth)
    layout = _layout(figure, figure["devices"])
    length = figure["length"]
    tokens = figure.get("step_tokens", figure["micro_batch"] * layout.replicas)
    seconds = update_s(shape, device, layout, tokens=tokens, length=length, k=k)
    rate = tokens / seconds / layout.devices
    if figure["unit"] == "TFLOP/s/device":
        return 3e-12 * rate * (2 * multiplied(shape) + attention_flops(shape) * length / 2)
    return rate


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
    layout = replace(_layout(figure, training), zero_stage=2)
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
