"""Every kind on a real engine: it learns, is saved for plain peft, merged, and resumes bit-equal.

Plain LoRA at every ZeRO stage is in tests/training/zero/test_deepspeed_adapter.py.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from one_rank import trainer
from packed_groups import load_plain, pack_into, random_groups
from peft import PeftModel
from peft_adapters import base_of, planned
from safetensors.torch import load_file, save_file

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.stages.merge.config import MergeConfig
from rlpost.stages.merge.drive import merge
from rlpost.stages.registry import STAGES

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
PROBE = [list(range(5, 45)), list(range(60, 20, -1))]
STEPS = 4

# kind -> its options here
KINDS = {
    "rslora": {"rank": 4},
    "dora": {"rank": 4},
    "lora_plus": {"rank": 4, "ratio": 4.0},
    "qlora": {"rank": 4},
    "pissa": {"rank": 4},
    "vera": {"rank": 16},
    "adalora": {"rank": 2, "initial_rank": 4, "warmup": 0.1, "settled": 0.25, "every": 1},
}


def batches():
    return pack_into(*random_groups(), num_micro_batches=2).batches[0]


def update(built, steps) -> list[dict[str, float]]:
    rows = []
    for step in steps:
        built.forward_backward(batches(), OBJECTIVE)
        rows.append(built.optim_step(step))
    return rows


def probed(built) -> np.ndarray:
    return np.concatenate(built.probe_logprobs(PROBE))


def in_plain(model) -> np.ndarray:
    """What ``probed`` says of the same function, in a model of transformers or peft."""
    found = []
    with torch.no_grad():
        for ids in PROBE:
            logprobs = model.eval()(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            found.append(logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy())
    return np.concatenate(found)


def furthest(a, b) -> float:
    return float(np.abs(a - b).max())


def merged_into_base(adapter: Path, place: Path) -> tuple[Path, float]:
    """Merge as ``rlpost merge`` does; returns the model and the drift that it states."""
    cfg = MergeConfig(adapter=str(adapter))
    cfg.run.dir, cfg.run.name = str(place), "merged"
    said = merge(STAGES["merge"], cfg, {"run": {"name": "merged"}}).message
    return place / "merged" / "export", float(re.search(r"differ by (\S+)", said)[1])


def write(directory: Path, config, tensors) -> None:
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(dict(config)))
    save_file(tensors, directory / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_is_saved_is_merged_and_goes_on_bit_equal(kind, tiny_model, tmp_path):
    model = planned(tiny_model, kind, **KINDS[kind])
    options = {"steps": STEPS, "lr": 1e-2, "zero_stage": 2}
    with trainer(tiny_model, model=model, **options) as built:
        start = probed(built)
        update(built, [1, 2])
        built.begin_save(tmp_path / "saved")
        built.finish_save()
        rows = update(built, [3, 4])
        end = probed(built)
        built.export(tmp_path / "export")
        pushed = {name: tensor.clone() for name, tensor in built.served.tensors()}
        assert [(n, t.dtype, tuple(t.shape)) for n, t in pushed.items()] == built.served.shapes()
        served, merge_error = built.served.adapter, built.served.merge_error
    bound = 1e-4  # of log-probs near -10, in float32
    assert furthest(start, in_plain(base_of(tiny_model, kind))) < bound
    assert furthest(start, end) > 1e-2
    loaded = PeftModel.from_pretrained(base_of(tiny_model, kind), tmp_path / "export")
    assert furthest(in_plain(loaded), end) < bound
    export, drift = merged_into_base(tmp_path / "export", tmp_path / "runs")
    assert drift < 1e-4
    assert furthest(in_plain(load_plain(export)), end) < bound
    assert (served is None) is (merge_error is not None) is (kind in ("dora", "qlora"))
    if served is None:  # whole weights are pushed, under the names of the base's files
        assert merge_error == 0  # of float32, in which the sum is computed
        state = load_file(export / "model.safetensors")
        assert pushed.keys() == state.keys() - {"lm_head.weight"}
        assert max((pushed[n] - state[n]).abs().max() for n in pushed) < bound
    else:  # plain LoRA of the rank that engines are built for, on the base as it lies on disk
        assert served["peft_type"] == "LORA" and served["r"] == model.adapter.config.served_rank
        write(tmp_path / "served", served, pushed)
        plain = PeftModel.from_pretrained(load_plain(tiny_model), tmp_path / "served")
        assert furthest(in_plain(plain), end) < bound

    with trainer(tiny_model, model=model, **options) as again:
        again.load(tmp_path / "saved")
        resumed = update(again, [3, 4])
        assert (probed(again) == end).all()
    timed = ("perf/", "timing")
    for row, other in zip(rows, resumed, strict=True):
        assert {k: v for k, v in row.items() if not k.startswith(timed)} == {
            k: v for k, v in other.items() if not k.startswith(timed)
        }
    if kind == "lora_plus":
        assert {row["actor/largest_lr"] / row["actor/lr"] for row in rows} == {4}
    if kind == "adalora":
        num_layers = 14
        assert rows[-1]["adapter/ranks"] == 2 * num_layers  # of 4 each at first
        assert rows[-1]["adapter/smallest_rank"] < rows[-1]["adapter/largest_rank"]
