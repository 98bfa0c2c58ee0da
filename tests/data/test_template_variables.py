"""Variables of a chat template: what renders with the tokenizer uses the values that were given."""

import pytest

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.identity import tokenizer_identity
from rlpost.data.encoder import PromptEncoder
from rlpost.data.records import Conversation
from rlpost.data.rows import Row
from rlpost.data.template_variables import fix_template_variables
from rlpost.errors import UserError
from rlpost.models.tiny import CHAT_TEMPLATE, byte_tokenizer

# As Qwen3's: the generation prompt closes the thinking unless it is wanted; read in a macro, too.
SWITCHED = (
    "  {% macro style() %}{{ style_of_day if style_of_day is defined else '' }}{% endmacro %}"
    + CHAT_TEMPLATE.replace(
        "{% if add_generation_prompt %}<|im_start|>assistant\n",
        "{% if add_generation_prompt %}<|im_start|>assistant\n{{ style() }}"
        "{% if enable_thinking is defined and enable_thinking is false %}<think></think>"
        "{% endif %}",
    )
)
MESSAGES = [{"role": "user", "content": "2 + 2?"}]


def switched(template=SWITCHED, **variables):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    fix_template_variables(tokenizer, variables)
    return tokenizer


def rendered(tokenizer, **variables):
    return tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=False, **variables
    )


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"enable_thinking": False},
        {"enable_thinking": True},
        {"enable_thinking": False, "style_of_day": 'a "quote", \\n {% x %} and é 😀\n'},
        {"style_of_day": [1, -2.5, None, {"a b": True}]},
    ],
)
def test_it_renders_as_with_arguments(variables):
    assert rendered(switched(**variables)) == rendered(switched(), **variables)
    by_name = {"default": SWITCHED, "tool_use": SWITCHED}
    assert rendered(switched(by_name, **variables)) == rendered(switched(by_name), **variables)


def test_prompts_and_answers_and_identities_use_them():
    plain, fixed = switched(), switched(enable_thinking=False)
    row = Row(columns={"prompt": "2 + 2?"}, address="a:1")
    prompt = [PromptEncoder(each).encode(row, uid="0:0").token_ids for each in (plain, fixed)]
    ends = ["assistant\n", "assistant\n<think></think>"]
    for ids, end in zip(prompt, ends, strict=True):
        assert plain.decode(list(ids)).endswith(end)
    assert tokenizer_identity(plain) != tokenizer_identity(fixed)
    whole = Conversation(
        messages=(*MESSAGES, {"role": "assistant", "content": "<think></think>4"}), address="a:1"
    )
    (example,) = ConversationEncoder(fixed).encode(whole)
    assert fixed.decode(example.ids[example.trained].tolist()) == "4<|im_end|>"
    (example,) = ConversationEncoder(plain).encode(whole)
    assert plain.decode(example.ids[example.trained].tolist()) == "<think></think>4<|im_end|>"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"enable_thinkin": False}, "has no effect.*reads are enable_thinking, style_of_day"),
        ({"add_generation_prompt": False}, "cannot be chosen"),
        ({"bos_token": "x"}, "cannot be chosen"),
        ({"style_of_day": float("inf")}, "a finite number"),
        ({"style_of_day": {1: 2}}, "style_of_day must be text"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(variables, said):
    with pytest.raises(UserError, match=said):
        switched(**variables)


def test_a_template_that_reads_nothing_and_a_tokenizer_without_one():
    with pytest.raises(UserError, match="it reads none"):
        switched(CHAT_TEMPLATE, enable_thinking=False)
    with pytest.raises(UserError, match="no chat template"):
        switched(None, enable_thinking=False)
