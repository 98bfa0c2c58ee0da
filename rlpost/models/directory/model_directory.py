"""A model directory that is read once and checked completely before a run starts.

Owns the order of the checks. Refuses to own each of them (config_file.py, weight_files.py,
shell.py, tokenizer_files.py). Invariant: ``read`` accepts only complete, unquantized models in
safetensors that transformers implements; an error is one paragraph that names the file.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlpost.models.directory.config_file import ModelKind, read_config
from rlpost.models.directory.shell import open_shell
from rlpost.models.directory.tokenizer_files import read_tokenizer
from rlpost.models.directory.weight_files import (
    Shape,
    StoredTensor,
    refuse_broken_numbers,
    stored_tensors,
)
from rlpost.models.naming import pieces_of

POLICY_FIELD = "model.path"


@dataclass(frozen=True, kw_only=True)
class ModelDirectory:
    """Example: ``ModelDirectory.read("models/Qwen3-0.6B").tokenizer()``"""

    path: Path
    config: Any  # transformers.PretrainedConfig
    tensors: dict[str, StoredTensor] = field(repr=False)
    field: str

    @classmethod
    def read(
        cls, path: Path | str, *, field: str = POLICY_FIELD, kind: ModelKind = ModelKind.policy
    ) -> "ModelDirectory":
        """Read config and headers, and a sample of every tensor.

        Args:
            path: a located model.
            field: what an error calls it.
            kind: what it is used for.

        Raises:
            UserError: the model cannot be used as ``kind``.
        """
        directory = Path(path)
        config = read_config(directory, field=field, kind=kind)
        tensors = stored_tensors(directory, field=field)
        refuse_broken_numbers(tensors, field=field)
        return cls(path=directory, config=config, tensors=tensors, field=field)

    def shell(self, *, dtype: torch.dtype | None = None) -> Any:
        """Return the model without its weights; see ``shell.open_shell``."""
        config = copy.deepcopy(self.config)
        return open_shell(self.path, config, self.tensors, field=self.field, dtype=dtype)

    def tokenizer(self) -> Any:
        """Return the tokenizer; see ``tokenizer_files.read_tokenizer``."""
        return read_tokenizer(self.path, self.config, field=self.field)

    def checkpoint_shapes(self) -> dict[str, Shape]:
        """Return name -> shape of the tensors that a saved or pushed model consists of.

        A tied ``lm_head`` is not listed even when the files store it.

        Raises:
            UserError: the model could not be pushed.
        """
        pieces = pieces_of(self.shell(), field=self.field)
        return {name: shape for piece in pieces for name, _, shape in piece.targets}
