"""Which weights a model directory holds, as a short text.

Owns the digest. Refuses to read whole models: it takes the name, shape and type of every tensor and
its first values, which no training leaves as they were. Invariant: the layout of the files and
where they lie make no difference.
"""

from collections.abc import Mapping

import torch
import xxhash

from rlpost.models.directory.weight_files import StoredTensor


def fingerprint_of(tensors: Mapping[str, StoredTensor]) -> str:
    """Return the digest of ``stored_tensors``, 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(tensor.sample().view(torch.uint8).numpy())
    return digest.hexdigest()
