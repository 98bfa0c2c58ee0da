"""The examination: what plain peft says of adapters, and the payload that the engine gets.

It runs in this process here; in one of its own in tests/operations/test_serve.py.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft_adapters import adapted, save

from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.serve import examination
from rlpost.stages.serve.examination import Candidate, Task
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.filesystem import FilesystemReceiver
from rlpost.weights.transports.protocol import Locator


def examined(scratch, task):
    """What the process would find, in this one."""
    (scratch / "task.json").write_text(json.dumps(asdict(task)))
    return examination.findings(scratch, code=examination.main(scratch), said=b"")


@pytest.fixture
def task(tiny_model):
    return Task(
        base=str(tiny_model), base_name="tiny", template=None, rank=16, longest=511,
        dtype="float32", candidates=(),
    )  # fmt: skip


def candidates(*places):
    return tuple(
        Candidate(number=number, place=str(place), field=f"adapters.{Path(place).name}")
        for number, place in enumerate(places, start=3)
    )


def test_each_adapter_is_scored_by_itself_and_written_as_plain_lora(task, tiny_model, tmp_path):
    places = [
        save(adapted(tiny_model, kind, seed=seed), tmp_path / kind)
        for seed, kind in enumerate(("vera", "adalora", "lora"))
    ]
    found = examined(tmp_path, replace(task, candidates=candidates(*places)))
    assert [each.number for each in found] == [3, 4, 5]
    (tmp_path / "alone").mkdir()
    alone = examined(tmp_path / "alone", replace(task, candidates=candidates(places[2])))
    torch.testing.assert_close(alone[0].wanted, found[2].wanted)  # none stays in the base
    for each in found:
        assert each.change > 0.1 and [len(ids) for ids in each.sequences] == [24, 24]
        locator = Locator(**each.locator)
        manifest = PushManifest.from_dict(locator.manifest)
        (tensors,) = map(dict, FilesystemReceiver().buckets(locator))
        assert manifest.adapter["peft_type"] == "LORA" and manifest.version == each.number
        assert all(".lora_A." in name or ".lora_B." in name for name in tensors)
    assert len({each.digest for each in found}) == 3


def test_what_changes_nothing_is_refused_by_its_name(task, tiny_model, tmp_path):
    idle = adapted(tiny_model, "rslora")
    with torch.no_grad():
        for name, parameter in idle.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    places = [save(adapted(tiny_model, "lora"), tmp_path / "good"), save(idle, tmp_path / "idle")]
    with pytest.raises(UserError, match=r"adapters\.idle: it changes nothing"):
        examined(tmp_path, replace(task, candidates=candidates(*places)))


def test_an_adapter_of_another_base_is_refused(task, tiny_model, tmp_path):
    other = build_tiny_llama(tmp_path / "other", seed=1)
    place = save(adapted(other, "lora"), tmp_path / "a")
    with pytest.raises(UserError, match=r"adapters\.a: .* has other weights"):
        examined(tmp_path, replace(task, candidates=candidates(place)))
