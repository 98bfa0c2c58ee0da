"""A tiny random llama with a byte tokenizer, built by code instead of downloaded.

Owns the stand-in model of tests and dry runs. Invariant: the same arguments give
the same weights and files. head_dim is 32 because vLLM's CPU attention refuses smaller.
"""

from pathlib import Path
from typing import Any

from rlpost.cache import publish_directory

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer() -> Any:
    """Build a tokenizer with one token per byte and a ChatML template.

    Returns:
        ``transformers.PreTrainedTokenizerFast`` with 259 tokens: 3 special, 256 bytes.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def build_tiny_llama(
    directory: Path | str,
    *,
    tied: bool = True,
    layers: int = 2,
    hidden: int = 64,
    max_positions: int = 512,
    vocabulary: int = 320,
    seed: int = 0,
) -> Path:
    """Write a random llama in Hugging Face layout and return its directory.

    Args:
        directory: where to put it; an existing complete model is kept.
        tied: whether ``lm_head`` shares the embedding's storage.
        layers: decoder layers.
        hidden: model width, a multiple of 64; heads are 32 wide, two of them share a
            key-value head.
        max_positions: context length in tokens.
        vocabulary: rows of the embedding; those above the tokenizer's 259 are padding.
        seed: seed of the random weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def write(target: Path) -> None:
        tokenizer = byte_tokenizer()
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 64,
            head_dim=32,
            max_position_embeddings=max_positions,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.2,  # wide enough that log-probs differ visibly between tokens
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return publish_directory(Path(directory), write)
