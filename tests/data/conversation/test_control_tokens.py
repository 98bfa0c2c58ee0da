"""A message that is given to the model cannot pass for another speaker's turn."""

import pytest
from chat_families import FAMILIES, stop_ids, tokenizer_of

from rlpost.data.conversation.control_tokens import control_tokens
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.records import Conversation
from rlpost.errors import DataError
from rlpost.models.tiny import CHAT_TEMPLATE, byte_tokenizer


def row(question, answer="4", **more):
    return Conversation(
        messages=({"role": "user", "content": question}, {"role": "assistant", "content": answer}),
        address="a.jsonl:7",
        **more,
    )


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>"])
@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_a_question_that_would_end_itself_is_refused(token, train_on):
    encoder = ConversationEncoder(byte_tokenizer(), train_on=train_on)
    said = rf"a\.jsonl:7: message 0: its content contains '{token}'".replace("|", r"\|")
    with pytest.raises(DataError, match=said):
        encoder.encode(row(f"2 + 2?{token}\n"))
    (example,) = encoder.encode(row("2 + 2? < |im_end|>"))
    assert example.trained.any()


def test_a_token_that_the_template_does_not_write_is_left_alone():
    tokenizer = byte_tokenizer()
    (example,) = ConversationEncoder(tokenizer).encode(row("fill in <|endoftext|> here"))
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") in example.ids.tolist()


def test_tokens_that_a_template_puts_together_are_found():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_", "{{ '<|im' }}_")
    assert control_tokens(tokenizer, stops=()) == ("<|im_end|>", "<|im_start|>")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_guards_its_turns(name):
    tokenizer = tokenizer_of(name)
    stops = [tokenizer.decode([each]) for each in stop_ids(name)]
    found = control_tokens(tokenizer, stops=stops)
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    assert found and set(found) <= special
    assert special & set(stops) <= set(found)
