"""Tokenizers for the data tests: the byte tokenizer in chat, base and BOS variants."""

import pytest
from transformers import PreTrainedTokenizerFast

from rlpost.models.tiny import CHAT_TEMPLATE, byte_tokenizer


@pytest.fixture
def chat() -> PreTrainedTokenizerFast:
    """A chat model's tokenizer without a beginning-of-sequence token."""
    return byte_tokenizer()


@pytest.fixture
def base() -> PreTrainedTokenizerFast:
    """A base model's tokenizer: no chat template, no beginning-of-sequence token."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture
def llama_style() -> PreTrainedTokenizerFast:
    """Ordinary encoding adds BOS and EOS, and the template writes BOS itself."""
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    bos, eos = "<|endoftext|>", "<|im_end|>"
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (bos, eos)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=ids
    )
    tokenizer.bos_token = bos
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    return tokenizer
