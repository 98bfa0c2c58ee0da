"""Templates that mark what is trained by blocks of their own."""

from typing import Any

import pytest
from chat_families import CONVERSATION, FAMILIES
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


def test_blocks_that_mark_nothing_are_refused(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = template(
        TURN + "{{ m.content }}{% if false %}{% generation %}{% endgeneration %}{% endif %}"
        "<|im_end|>\n"
    )
    with pytest.raises(DataError, match=r"^t\.jsonl:7: .*blocks do not hold"):
        learned(chat, USER, ANSWER)
