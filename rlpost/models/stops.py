"""At which tokens a model's generation stops, besides its tokenizer's end-of-sequence token.

Owns the look-up. Refuses to own what a stop means (data/conversation/stops.py).
"""

from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import POLICY_FIELD, ModelDirectory
from rlpost.models.export import GENERATION, generation_config


def stop_token_ids(model: ModelDirectory) -> tuple[int, ...]:
    """Return the ids that generation_config.json, or else config.json, names ``eos_token_id``.

    Raises:
        UserError: generation_config.json cannot be used, or names something else.
    """
    return named_stops(model.path, model.config, field=model.field)


def named_stops(directory: Path, config: Any, *, field: str = POLICY_FIELD) -> tuple[int, ...]:
    """Return the same of a directory and its ``PretrainedConfig``."""
    settings, _ = generation_config(directory, field=field)
    named = settings.eos_token_id
    if named is None:
        named = getattr(config.get_text_config(), "eos_token_id", None)
    if named is None:
        return ()
    ids = named if isinstance(named, list) else [named]
    if not all(type(each) is int for each in ids):
        raise UserError(
            f"{field}: eos_token_id must be a token id or a list of them, got {named!r:.100} in "
            f"{directory / GENERATION}, or else in config.json; correct it"
        )
    return tuple(ids)
