"""Writes model directories that other programs can load, and checks beforehand that it can.

Owns what surrounds the weights: config, generation settings, tokenizer and templates, all from
the directory that training started from. Refuses to own the gathering of weights
(training/zero/deepspeed_weights.py). Invariant: harmless settings that transformers refuses to
save, such as a sampling temperature with ``do_sample: false``, are left out with a warning, at
the check before step 1 as well as at the end.
"""

import logging
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlpost.errors import UserError
from rlpost.foreign_output import logged_output
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.read_errors import reading_model
from rlpost.models.directory.weight_files import SINGLE, read_json_object
from rlpost.umask import follow_umask

log = logging.getLogger(__name__)

GENERATION = "generation_config.json"
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_model(
    shell: Any, state: Mapping[str, Tensor], directory: Path, *, start: Path, tokenizer_path: Path
) -> None:
    """Write a ``save_pretrained`` directory with tokenizer and chat template.

    Args:
        shell: the model without weights; its config and class are written.
        state: the weights under the shell's own names.
        directory: the target; created if it is missing.
        start: the directory whose generation settings are kept.
        tokenizer_path: the directory whose tokenizer is written.
    """
    from transformers import AutoTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    if shell.can_generate():
        shell.generation_config, _ = generation_config(start)
    shell.save_pretrained(directory, state_dict=dict(state))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    pad = shell.config.get_text_config().pad_token_id
    if not shell.can_generate() and pad is not None:  # a classifier, see padding.py
        tokenizer.pad_token, tokenizer.padding_side = tokenizer.convert_ids_to_tokens(pad), "right"
    tokenizer.save_pretrained(directory)
    follow_umask(directory)


def write_model_shell(
    shell: Any, directory: Path, *, start: Path, tokenizer_path: Path | None = None
) -> None:
    """Write everything of ``write_model`` but the weights; the tokenizer is that of ``start``."""
    write_model(shell, {}, directory, start=start, tokenizer_path=tokenizer_path or start)
    (directory / SINGLE).unlink(missing_ok=True)  # of no tensors


def try_export(model: ModelDirectory) -> None:
    """Write everything but the weights to a temporary directory.

    Logs a warning for generation settings that an export leaves out.

    Raises:
        UserError: the model could not be exported after training.
    """
    _, dropped = generation_config(model.path, field=model.field)
    if dropped:
        log.warning(
            "%s: %s cannot be saved unchanged, so exports leave out %s; correct the file to keep "
            "them",
            model.field,
            model.path / GENERATION,
            ", ".join(dropped),
        )
    with (
        tempfile.TemporaryDirectory(prefix="rlpost-export-") as scratch,
        reading_model(f"{model.field}: a model trained from {model.path} could not be exported"),
    ):
        write_model(model.shell(), {}, Path(scratch), start=model.path, tokenizer_path=model.path)


def generation_config(start: Path, *, field: str = "model.path") -> tuple[Any, list[str]]:
    """Return generation settings that can be saved, and the names of those left out.

    Raises:
        UserError: the file is no JSON object.
    """
    from transformers import GenerationConfig

    file = start / GENERATION
    fields = read_json_object(file, field=field) if file.is_file() else {}
    fields.pop("transformers_version", None)
    kept = dict(fields)
    while True:
        try:
            with logged_output():  # it also prints what it raises
                settings = GenerationConfig(**kept)
                settings.validate(strict=True)
        except (ValueError, TypeError, AttributeError) as error:
            # Lines such as "- `top_p`: ..." name the bad settings; without any, keep only the ids.
            named = set(re.findall(r"^- `(\w+)`", str(error), re.MULTILINE)) & kept.keys()
            ids = {name: kept[name] for name in _TOKEN_IDS if name in kept}
            if not named and kept == ids:
                raise UserError(f"{field}: {file} cannot be used: {error}") from error
            kept = {k: v for k, v in kept.items() if k not in named} if named else ids
        else:
            return settings, sorted(fields.keys() - kept.keys())
