"""Resolves ``model.path`` to a directory.

Owns the resolution of names. Refuses to own what is in the directory (directory/).
"""

import os
from pathlib import Path

from rlpost.errors import UserError
from rlpost.models import embedded
from rlpost.models.directory.weight_files import stored_tensors


def locate_model(path: str, *, field: str = "model.path") -> str:
    """Resolve what ``field`` names: the embedded model, a local directory, or a hub id.

    Raises:
        UserError: nothing of that name exists or it is not a model directory.
    """
    if not path.strip():
        raise UserError(
            f"{field} names no model, got {path!r}; give {embedded.NAME!r}, a local directory or "
            "a hub id such as 'Qwen/Qwen3-0.6B'"
        )
    if path == embedded.NAME:
        return str(embedded.materialize())
    local = Path(os.path.expanduser(path))  # "~NAME" stays where there is no such user
    if os.path.isdir(local):
        return str(local.resolve())
    if os.path.exists(local):
        raise UserError(
            f"{field}: {local} is a file; give the directory that holds the model's config, "
            "safetensors and tokenizer"
        )
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(
            f"{field}: {path!r} does not exist; give {embedded.NAME!r}, an existing local "
            "directory or a hub id such as 'Qwen/Qwen3-0.6B'"
        )
    return _hub_snapshot(path, field=field)


def _hub_snapshot(repo_id: str, *, field: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(
            repo_id,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "README.md"],
            ignore_patterns=["consolidated*", "original/*"],  # the same weights, other names
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{field}: {repo_id!r} is neither a local directory nor a model that can be "
            f"fetched from the hub ({type(error).__name__}); check the name, the network and "
            "HF_TOKEN"
        ) from error


def context_length(model_path: str) -> int:
    """Return the model's context in tokens.

    Raises:
        UserError: the model's config does not say.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path).get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    if length is None:
        raise UserError(
            f"model.path: the config of {model_path} names no max_position_embeddings; set "
            "generator.max_model_len"
        )
    return int(length)


def parameter_count(model_path: str) -> int:
    """Return the number of parameters, read from the headers of the weights.

    Raises:
        UserError: there are no weights, or they are damaged.
    """
    return sum(t.numel for t in stored_tensors(Path(model_path), field="model.path").values())
