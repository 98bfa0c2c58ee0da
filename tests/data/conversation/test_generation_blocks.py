"""Templates that mark what is trained by blocks of their own."""

import pickle
from typing import Any

import pytest
from chat_families import CONVERSATION, FAMILIES, tokenizer_of
from transformers import PreTrainedTokenizerFast

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.records import Conversation
from rlpost.errors import DataError

USER, ANSWER, *_ = CONVERSATION
THINKS = {**ANSWER, "content": "<think>Hm</think>4 🙂"}
TURN = "<|im_start|>{{ m.role }}\n"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def template(answer: str) -> str:
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}" + answer + "{% else %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + PROMPT
    )


def learned(tokenizer: Any, *messages: Any) -> list[str]:
    record = Conversation(messages=messages, address="t.jsonl:7")
    examples = ConversationEncoder(tokenizer).encode(record)
    return [tokenizer.decode(each.ids[each.trained]) for each in examples]


def transformers_mask(tokenizer: Any, *messages: Any) -> str:
    result = tokenizer.apply_chat_template(
        list(messages), return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(result["input_ids"], result["assistant_masks"], strict=True)
    return tokenizer.decode([number for number, chosen in pairs if chosen])


def test_header_and_line_feed_of_a_block_are_not_trained(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = FAMILIES["SmolLM3"].template
    assert transformers_mask(chat, USER, ANSWER) == "<|im_start|>assistant\nIt is 4.<|im_end|>\n"
    assert learned(chat, USER, ANSWER) == ["It is 4.<|im_end|>"]


def test_a_block_may_leave_out_thinking(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = template(
        TURN + "{{ m.content.split('</think>')[0] }}</think>"
        "{% generation %}{{ m.content.split('</think>')[-1] }}<|im_end|>{% endgeneration %}\n"
    )
    assert learned(chat, USER, THINKS) == ["4 🙂<|im_end|>"]


def test_a_block_without_the_end_of_the_turn_is_refused(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = template(
        TURN + "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"
    )
    # transformers' mask loses bytes of a last character that is several tokens.
    assert transformers_mask(chat, USER, THINKS) != THINKS["content"]
    with pytest.raises(DataError, match=r"^t\.jsonl:7: message 1: .*blocks do not hold the end-of"):
        learned(chat, USER, THINKS)


def test_a_block_inside_a_macro_is_misplaced_and_refused(chat: PreTrainedTokenizerFast) -> None:
    """transformers counts a block's place from the text that was written before the macro."""
    chat.chat_template = (
        "{% macro say(m) %}<|im_start|>assistant\n{% generation %}{{ m.content }}<|im_end|>"
        "{% endgeneration %}\n{% endmacro %}" + template("{{ say(m) }}")
    )
    assert transformers_mask(chat, USER, ANSWER) != "It is 4.<|im_end|>"
    with pytest.raises(DataError, match=r"^t\.jsonl:7: message 1: .*blocks do not hold the end-of"):
        learned(chat, USER, ANSWER)


LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def test_a_block_that_holds_a_whole_answer_allows_shared_tokens() -> None:
    """The two line feeds are one token at the prompt's end, and two in front of the answer."""
    tokenizer = pickle.loads(pickle.dumps(tokenizer_of("Llama-3, tokenizer of GPT-2")))
    tokenizer.chat_template = LLAMA3
    assert learned(tokenizer, USER, ANSWER) == ["It is 4.<|eot_id|>"]
    tokenizer.chat_template = LLAMA3.replace(
        "{% generation %}{{ m.content }}", "{{ m.content[:2] }}{% generation %}{{ m.content[2:] }}"
    )
    with pytest.raises(DataError, match=r"message 1: .*hold a part of an answer that shares"):
        learned(tokenizer, USER, ANSWER)


def test_blocks_that_mark_nothing_are_refused(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = template(
        TURN + "{{ m.content }}{% if false %}{% generation %}{% endgeneration %}{% endif %}"
        "<|im_end|>\n"
    )
    with pytest.raises(DataError, match=r"^t\.jsonl:7: .*blocks do not hold"):
        learned(chat, USER, ANSWER)
