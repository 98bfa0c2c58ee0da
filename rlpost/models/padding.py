"""The token that a classifier's files call padding.

Owns the choice. transformers scores a padded sequence at the last token that is not the padding
token, so a model whose padding token also ends answers would be read one token too early.
Invariant: what is chosen ends no answer.
"""

from pathlib import Path
from typing import Any

from rlpost.models.stops import named_stops


def padding_token(directory: Path, config: Any) -> int | None:
    """Return the padding token of a classifier made from a model.

    It is the tokenizer's own where that ends no answer; else a special token that the chat
    template does not use; else the beginning-of-sequence token.

    Args:
        directory: of the model and its tokenizer.
        config: the model's ``PretrainedConfig``.

    Returns:
        A token id; None where every special token ends answers.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    stops = {tokenizer.eos_token_id, *named_stops(directory, config)}
    template = str(tokenizer.chat_template or "")
    added = sorted(tokenizer.added_tokens_decoder.items())
    unused = [number for number, token in added if token.special and str(token) not in template]
    taken = (tokenizer.bos_token_id, tokenizer.unk_token_id)
    candidates = [
        tokenizer.pad_token_id,
        *(number for number in unused if number not in taken),
        *reversed(taken),
    ]
    size = config.get_text_config().vocab_size
    return next(
        (each for each in candidates if each is not None and each not in stops and each < size),
        None,
    )
