"""What is streamed to disk is what safetensors reads, in one file or in parts with an index."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rlpost.merging.weights_file import PlannedTensor, write_weights
from rlpost.models.directory.weight_files import stored_tensors

VALUES = {
    "a.weight": torch.randn(3, 5),
    "b.weight": torch.randn(7).bfloat16(),
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(2.5, dtype=torch.float16),
    "count": torch.arange(3),
    "mask": torch.tensor([True, False, True]),
}
PLANNED = [PlannedTensor(name=n, dtype=t.dtype, shape=tuple(t.shape)) for n, t in VALUES.items()]


@pytest.mark.parametrize("part_bytes", [10**9, 70, 1])
def test_safetensors_reads_the_same_tensors(part_bytes, tmp_path):
    asked = []
    write_weights(
        tmp_path, PLANNED, lambda name: asked.append(name) or VALUES[name], part_bytes=part_bytes
    )
    assert asked == list(VALUES)
    files = sorted(tmp_path.glob("*.safetensors"))
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert read.keys() == VALUES.keys()
    assert all(torch.equal(read[n], t) and read[n].dtype is t.dtype for n, t in VALUES.items())
    stored = stored_tensors(tmp_path, field="model.path")  # our own reader, by the index
    assert {n: t.shape for n, t in stored.items()} == {n: tuple(t.shape) for n, t in VALUES.items()}
    if part_bytes == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == {file.name for file in files}
        assert len(files) > 1


def test_a_value_of_another_shape_is_our_bug(tmp_path):
    with pytest.raises(AssertionError, match=r"a\.weight"):
        write_weights(tmp_path, PLANNED[:1], lambda name: torch.zeros(5, 3))
