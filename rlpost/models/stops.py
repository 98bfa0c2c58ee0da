"""At which tokens a model's generation stops, besides its tokenizer's end-of-sequence token.

Owns the look-up. Refuses to own what a stop means (data/conversation/stops.py).
"""

from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.export import generation_config


def stop_token_ids(model: ModelDirectory) -> tuple[int, ...]:
    """Return the ids that generation_config.json, or else config.json, names ``eos_token_id``.

    Raises:
        UserError: generation_config.json cannot be used.
    """
    settings, _ = generation_config(model.path, field=model.field)
    named = settings.eos_token_id
    if named is None:
        named = getattr(model.config.get_text_config(), "eos_token_id", None)
    if named is None:
        return ()
    return tuple(named) if isinstance(named, list) else (int(named),)
