"""An adapter directory as peft writes it: what it says, and whether it fits a base.

Owns the reading of both files and the checks. Refuses to own the model that it is put into
(adapt.py). Invariant: an adapter that passes loads completely into its base, and nothing that is
read can run code.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.models.directory.read_errors import reading_model
from rlpost.models.directory.weight_files import file_tensors, read_json_object, stored_tensors
from rlpost.models.fingerprint import fingerprint_of
from rlpost.training.adapters.foreign_config import (
    require_finite,
    require_known_settings,
    require_sound_values,
)
from rlpost.training.adapters.registry import adapters

FIELD = "model.adapter"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every tensor in the file that belongs to a module
PROJECTIONS = ("base_model.vera_A", "base_model.vera_B")
PROMPT = "prompt_embeddings"  # of prompt tuning
OWN_NAMES = (*PROJECTIONS, PROMPT)  # of no module, so they have no ``PREFIX``
BASE = "base_fingerprint"  # in the metadata of the weights, of those that were trained here
FOUR_BIT = "base_in_4_bits"  # there too: the format in which training kept the base
_DTYPES = ("F64", "F32", "F16", "BF16")

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AdapterDirectory:
    """Example: ``AdapterDirectory.read("runs/sft/export").base``"""

    path: Path
    fields: Mapping[str, Any]  # of adapter_config.json
    shapes: Mapping[str, Shape] = field(repr=False)  # by tensor, without ``PREFIX``
    trained_on: str | None  # fingerprint of its base, where the file says
    four_bit: bool  # whether that base was kept in 4 bits
    field: str

    @classmethod
    def read(cls, path: Path | str, *, field: str = FIELD) -> "AdapterDirectory":
        """Read the configuration and the header of the weights.

        Raises:
            UserError: there is no adapter, or its files are damaged.
        """
        directory = Path(os.path.expanduser(path))
        file = directory / CONFIG
        if not file.is_file():
            raise UserError(
                f"{field}: {directory} has no {CONFIG}, so it is no adapter; give a directory that "
                "peft or a run with adapter=KIND saved, and a whole model as model.path"
            )
        fields = read_json_object(file, field=field)
        require_sound_values(fields, field=field)
        shapes, said = _header(directory, field=field)
        return cls(
            path=directory.resolve(),
            fields=fields,
            shapes=shapes,
            trained_on=said.get(BASE),
            four_bit=FOUR_BIT in said,
            field=field,
        )

    @property
    def base(self) -> str | None:
        """The base that the configuration names."""
        name = self.fields.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    def options(self) -> Any:
        """Return the options of its kind, as a run that makes such an adapter has them.

        Raises:
            UserError: no kind is like it.
        """
        require_known_settings(self.fields, field=self.field)
        for entry in adapters:
            read = getattr(entry.config, "of_peft", None)
            try:
                found = None if read is None else read(self.fields)
                if found is not None:
                    check_config(found, self.field)
                    return found
            except UserError:
                raise
            except (TypeError, ValueError, AttributeError):  # somebody else's file
                continue
        raise UserError(
            f"{self.field}: {self.path / CONFIG} is of the type {self.fields.get('peft_type')!r} "
            "with settings that no kind of adapter here has; merge it with peft "
            "(merge_and_unload(), then save_pretrained()) and train from the whole model"
        )

    def tensors(self) -> dict[str, Any]:
        """Return the tensors by name, without ``PREFIX``, in host memory."""
        from safetensors.torch import load_file

        with reading_model(f"{self.field}: {self.path / WEIGHTS} cannot be read"):
            return {n.removeprefix(PREFIX): t for n, t in load_file(self.path / WEIGHTS).items()}

    def require_finite(self) -> None:
        """Raises UserError: a tensor cannot be read, or holds values that are no numbers."""
        require_finite(self.tensors(), field=self.field)

    def fingerprint(self) -> str:
        """Return the digest of the adapter's weights."""
        return fingerprint_of(file_tensors(self.path / WEIGHTS, field=self.field))

    def require_base(self, path: Path, fingerprint: str, *, name: str) -> None:
        """Refuse another base than the one that the adapter was trained on, where it is known.

        Args:
            path: of the base that is given.
            fingerprint: of its weights.
            name: what the user called it.

        Raises:
            UserError: its weights are not those that the adapter names.
        """
        known = self.trained_on
        if known is None and self.base is not None:
            known = _fingerprint_there(self.base)
        if known is None or known == fingerprint:
            return
        raise UserError(
            f"{self.field}: the adapter in {self.path} was trained on "
            f"{self.base or 'another base'}, and model.path={name} has other weights; give its "
            "base as model.path"
        )


def _fingerprint_there(base: str) -> str | None:
    """Return the digest of the model at a path that somebody else wrote; None: there is none."""
    path = Path(base)
    try:
        return fingerprint_of(stored_tensors(path, field=FIELD)) if path.is_dir() else None
    except (UserError, OSError):  # another machine's path, which is something else here
        return None


def _header(directory: Path, *, field: str) -> tuple[dict[str, Shape], dict[str, str]]:
    """Return the shapes by name without ``PREFIX``, and what is said of the adapter beside them."""
    from safetensors import SafetensorError, safe_open

    file = directory / WEIGHTS
    if not file.is_file():
        raise UserError(
            f"{field}: {directory} has no {WEIGHTS}; formats that can run code when they are "
            "opened are not read: save the adapter again with a recent peft"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            names, said = list(opened.keys()), opened.metadata() or {}
            slices = {name: opened.get_slice(name) for name in names}
            shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            dtypes = {name: each.get_dtype() for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{field}: {file} is damaged ({error}); copy it again") from error
    strangers = [name for name in names if not name.startswith((PREFIX, *OWN_NAMES))]
    if strangers or not names:
        raise UserError(
            f"{field}: {file} holds {strangers[0] if strangers else 'nothing'}, and an adapter's "
            f"tensors are called {PREFIX}...; save the adapter again with save_pretrained() of peft"
        )
    for name in names:
        if dtypes[name] not in _DTYPES or not shapes[name]:
            raise UserError(
                f"{field}: {name} in {file} is of the type {dtypes[name]} and the shape "
                f"{shapes[name]}, and an adapter's tensors are vectors and matrices of "
                f"{', '.join(_DTYPES)}; save the adapter again in float32"
            )
    return {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}, said
