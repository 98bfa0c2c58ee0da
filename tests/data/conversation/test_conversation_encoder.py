"""Conversations and completions: what is trained by each option, and what is refused."""

import pickle
from typing import Any

import numpy as np
import pytest
from chat_families import CONVERSATION, FAMILIES, THOUGHT, stop_ids, tokenizer_of
from chat_templates import FIRST_TOOL_ONLY, TOOLS_IN_SYSTEM
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.encoder import PromptEncoder
from rlpost.data.example import Example
from rlpost.data.records import Completion, Conversation
from rlpost.data.rows import Row
from rlpost.errors import DataError, UserError
from rlpost.models.tiny import byte_tokenizer

USER, ANSWER, AGAIN, LAST = CONVERSATION
CALL = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [
        {"type": "function", "function": {"name": "weather", "arguments": {"city": 'U"lm'}}}
    ],
}
RESULT = {"role": "tool", "content": "sunny"}
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {}}},)


def conversation(*messages: Any, tools: Any = ()) -> Conversation:
    return Conversation(messages=messages, address="t.jsonl:7", tools=tools)


def encode(tokenizer: Any, record: Any, **options: Any) -> list[Example]:
    return ConversationEncoder(tokenizer, **options).encode(record)


def learned(tokenizer: Any, record: Any, **options: Any) -> list[str]:
    """The trained text of every example."""
    examples = encode(tokenizer, record, **options)
    return [tokenizer.decode(each.ids[each.trained]) for each in examples]


@pytest.mark.parametrize(
    ("train_on", "text"),
    [
        ("assistant", "It is 4.<|im_end|>6, I think.<|im_end|>"),
        ("last", "6, I think.<|im_end|>"),
        (
            "all",
            "user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\nIt is 4.<|im_end|>\n"
            "<|im_start|>user\nAnd 3 + 3?<|im_end|>\n<|im_start|>assistant\n"
            "6, I think.<|im_end|>\n",
        ),
    ],
)
def test_what_each_option_trains(chat: PreTrainedTokenizerFast, train_on: str, text: str) -> None:
    assert learned(chat, conversation(*CONVERSATION), train_on=train_on) == [text]


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"weight": 0.0, "train": 0}])
@pytest.mark.parametrize("place", [1, 3])
def test_a_message_may_be_left_out(
    chat: PreTrainedTokenizerFast, mark: dict[str, Any], place: int
) -> None:
    messages = [*CONVERSATION]
    messages[place] = {**messages[place], **mark}
    other = CONVERSATION[4 - place]["content"]
    assert learned(chat, conversation(*messages)) == [f"{other}<|im_end|>"]
    with pytest.raises(DataError, match=r"^t\.jsonl:7: .*message \d is not to be trained"):
        encode(chat, conversation(*messages), train_on="all")


def test_marks_are_not_shown_to_the_template(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = chat.chat_template.replace("{{ message['content'] }}", "{{ message }}")
    (example,) = encode(chat, conversation(USER, {**ANSWER, "weight": 1, "train": True}))
    assert "weight" not in chat.decode(example.ids)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((USER, {**ANSWER, "weight": 0.5}), "message 1: weight must be 0 or 1, got 0.5"),
        ((USER, {**ANSWER, "train": "no"}), "message 1: train must be true or false, got 'no'"),
        ((USER, {**ANSWER, "train": True, "weight": 0}), "message 1: weight and train contradict"),
        (({**USER, "train": True}, ANSWER), "message 0: only the assistant's messages can be"),
        ((USER, {**ANSWER, "weight": 0}), "nothing of the conversation is trained, because mess"),
        ((ANSWER, USER, LAST), "message 0: an answer that comes first has no prompt"),
        ((USER, {**ANSWER, "content": "a<|im_end|>b"}), "message 1: its content contains '<|im_"),
        ((USER, {**ANSWER, "content": " \n"}), "message 1: the answer is empty"),
        ((USER, {**ANSWER, "reasoning_content": THOUGHT}), "does not show its reasoning_content"),
        ((USER, {**CALL, "content": "x"}), "does not show its tool_calls ('weather'), so it"),
    ],
)
def test_refusals_name_row_and_message(
    chat: PreTrainedTokenizerFast, messages: Any, reason: str
) -> None:
    with pytest.raises(DataError) as caught:
        encode(chat, conversation(*messages))
    assert str(caught.value).startswith("t.jsonl:7: ") and reason in str(caught.value)


def test_an_answer_that_comes_first_may_be_shown_untrained(chat: PreTrainedTokenizerFast) -> None:
    first = {**ANSWER, "weight": 0}
    assert learned(chat, conversation(first, AGAIN, LAST)) == ["6, I think.<|im_end|>"]


def test_calls_are_trained(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = TOOLS_IN_SYSTEM
    record = conversation(USER, CALL, RESULT, ANSWER, tools=TOOLS)
    call = 'Let me see.<call>weather {"city": "U\\"lm"}</call><|im_end|>'
    assert learned(chat, record) == [call + "It is 4.<|im_end|>"]
    chat.chat_template = TOOLS_IN_SYSTEM.replace("{{ call.function.arguments | tojson }}", "")
    with pytest.raises(DataError, match=r"message 1: .* does not show argument 'city' of its tool"):
        encode(chat, record)


def test_tools_that_the_template_leaves_out_are_refused(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = FIRST_TOOL_ONLY
    more = ({"type": "function", "function": {"name": "time", "parameters": {}}},)
    with pytest.raises(DataError, match=r"^t\.jsonl:7: .*does not show the function 'time'"):
        encode(chat, conversation(USER, ANSWER, tools=TOOLS + more))


@pytest.mark.parametrize(
    ("prompt", "completion", "train_on", "text"),
    [
        ("Hi", "Hello", "assistant", "Hello<|im_end|>"),
        ("Hi", "Hello", "last", "Hello<|im_end|>"),
        (CONVERSATION[:3], "Six", "assistant", "Six<|im_end|>"),
        (
            CONVERSATION[:1],
            CONVERSATION[1:],
            "assistant",
            "It is 4.<|im_end|>6, I think.<|im_end|>",
        ),
        ([USER], CONVERSATION[1:], "last", "6, I think.<|im_end|>"),
    ],
)
def test_of_completions_the_prompt_is_given(
    chat: PreTrainedTokenizerFast, prompt: Any, completion: Any, train_on: str, text: str
) -> None:
    record = Completion(prompt=prompt, completion=completion, address="t.jsonl:7")
    assert learned(chat, record, train_on=train_on) == [text]


@pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.marked])
def test_answers_begin_where_rl_lets_the_model_begin(name: str) -> None:
    """In front of every answer stand the tokens of the RL prompt that ends there."""
    tokenizer, messages = tokenizer_of(name), FAMILIES[name].messages
    examples = encode(tokenizer, conversation(*messages), stop_ids=stop_ids(name))
    found = [tuple(each.ids[:at].tolist()) for each in examples for at in starts(each)]
    prompts = [
        Row(columns={"prompt": list(messages[:at])}, address="t.jsonl:7")
        for at, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    encoder = PromptEncoder(tokenizer)
    assert found == [encoder.encode(prompt, uid="0:0").token_ids for prompt in prompts]


def starts(example: Example) -> list[int]:
    """Places where a trained token follows one that is not."""
    before = np.append(False, example.trained[:-1])
    return np.flatnonzero(example.trained & ~before).tolist()


def test_a_conversation_with_a_text_of_beginning(llama_style: PreTrainedTokenizerFast) -> None:
    (example,) = encode(llama_style, conversation(USER, ANSWER))
    assert example.ids.tolist().count(llama_style.bos_token_id) == 1
    with pytest.raises(DataError, match=r"message 0: its text contains '<\|endoftext\|>', the"):
        encode(llama_style, conversation({**USER, "content": "a<|endoftext|>"}, ANSWER))
    llama_style.chat_template = "{{ bos_token }}" + llama_style.chat_template
    with pytest.raises(DataError, match=r"^t\.jsonl:7: two beginning-of-sequence tokens"):
        encode(llama_style, conversation(USER, ANSWER))


def test_the_end_of_a_turn_must_be_where_generation_stops(chat: PreTrainedTokenizerFast) -> None:
    chat.eos_token = "<|endoftext|>"
    with pytest.raises(DataError, match=r"message 1: .*none of the tokens that end a turn \("):
        encode(chat, conversation(USER, ANSWER))
    with pytest.raises(DataError, match=r"message 1: .*none of the tokens that end a turn \("):
        encode(chat, conversation(USER, ANSWER), train_on="all")
    stop = chat.convert_tokens_to_ids("<|im_end|>")
    assert learned(chat, conversation(USER, ANSWER), stop_ids=[stop]) == ["It is 4.<|im_end|>"]
    chat.eos_token = None
    with pytest.raises(UserError, match="names no end-of-sequence token"):
        ConversationEncoder(chat)


def test_an_end_of_another_turn_is_no_end_of_an_answer(chat: PreTrainedTokenizerFast) -> None:
    end = "<|im_end|>\n{% endfor %}"
    ends = "{{ '' if message['role'] == 'assistant' else '<|im_end|>' }}\n{% endfor %}"
    assert end in chat.chat_template
    chat.chat_template = chat.chat_template.replace(end, ends)
    for train_on in ("assistant", "all"):
        with pytest.raises(DataError, match="message 1: the rendered answer has none of the tok"):
            encode(chat, conversation(*CONVERSATION), train_on=train_on)


def test_a_template_that_hides_an_answer_is_refused(chat: PreTrainedTokenizerFast) -> None:
    shown = "{{ message['content'] }}"
    chat.chat_template = chat.chat_template.replace(shown, "{{ message['content'][:5] }}")
    for train_on in ("assistant", "all"):
        with pytest.raises(DataError, match=r"message 1: .*does not show its content"):
            encode(chat, conversation(USER, ANSWER), train_on=train_on)


def test_a_continued_answer_must_be_the_text_of_the_row() -> None:
    """DeepSeek-R1's template with a change of what it shows after the thinking."""
    name = "DeepSeek-R1"
    tokenizer = pickle.loads(pickle.dumps(tokenizer_of(name)))
    record = conversation(*FAMILIES[name].messages[:2])
    assert len(encode(tokenizer, record)) == 1
    shown = "m.content.split('</think>')[-1]"
    assert shown in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(shown, f"{shown}.replace('4', '5')")
    with pytest.raises(DataError, match=r"message 1: generation begins with '<think>\\n' where"):
        encode(tokenizer, record)


def test_white_space_may_be_trimmed(chat: PreTrainedTokenizerFast) -> None:
    shown = "{{ message['content'] }}"
    chat.chat_template = chat.chat_template.replace(shown, "{{ message['content'] | trim }}")
    assert learned(chat, conversation(USER, {**ANSWER, "content": " a\n"})) == ["a<|im_end|>"]


def test_a_character_of_several_tokens_stays_whole() -> None:
    tokenizer = byte_tokenizer()
    record = conversation({**USER, "content": "🙂"}, {**ANSWER, "content": "é🙂"})
    (example,) = encode(tokenizer, record)
    assert example.trained.sum() == len("é🙂".encode()) + 1
    assert learned(tokenizer, record) == ["é🙂<|im_end|>"]


@pytest.mark.parametrize("text", ["x\U00040000y", "x\x04y"])
def test_characters_that_the_tokenizer_drops_are_refused(text: str) -> None:
    """The vocabulary of SmolLM2 lacks some bytes; their characters vanish without an error."""
    tokenizer = tokenizer_of("ChatML")
    kept = tokenizer.decode(tokenizer(text)["input_ids"])
    assert kept != text
    with pytest.raises(DataError, match=r"^t\.jsonl:7: message 1: the tokenizer does not keep the"):
        encode(tokenizer, conversation(USER, {**ANSWER, "content": text}))
    (whole,) = learned(byte_tokenizer(), conversation(USER, {**ANSWER, "content": text}))
    assert whole == text + "<|im_end|>"


def test_forms_of_one_character_may_be_normalized(chat: PreTrainedTokenizerFast) -> None:
    chat.backend_tokenizer.normalizer = normalizers.NFC()
    record = conversation(USER, {**ANSWER, "content": "cafe\u0301"})
    assert learned(chat, record) == ["caf\u00e9<|im_end|>"]


def test_a_prompt_and_an_answer_that_share_a_token_are_cut() -> None:
    """The bracket that ends the prompt and the one that begins the answer are one token."""
    tokenizer = pickle.loads(pickle.dumps(tokenizer_of("Llama-2")))
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}Q: {{ m.content }} a]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    answers = [{**ANSWER, "content": f"<{number}>"} for number in "45"]
    assert any("]<" in token for token in tokenizer.tokenize("a]<4>"))
    first, second = encode(tokenizer, conversation(USER, answers[0], AGAIN, answers[1]))
    for example, number in ((first, "4"), (second, "5")):
        start = int(example.trained.argmax())
        assert tokenizer.convert_ids_to_tokens(int(example.ids[start - 1])).endswith("]")
        assert tokenizer.decode(example.ids[example.trained]) == f"<{number}></s>"
    assert tokenizer.decode(second.ids).endswith("Q: And 3 + 3? a]<5></s>")


def test_an_answer_that_changes_the_prompts_last_character_is_refused(
    chat: PreTrainedTokenizerFast,
) -> None:
    chat.backend_tokenizer.normalizer = normalizers.NFC()
    chat.chat_template = chat.chat_template.replace("<|im_start|>assistant\n{% endif", "e{% endif")
    chat.chat_template = chat.chat_template.replace(
        "<|im_start|>{{ message['role'] }}\n",
        "{{ 'e' if message['role'] == 'assistant' else '<|im_start|>user' }}",
    )
    assert learned(chat, conversation(USER, ANSWER)) == ["It is 4.<|im_end|>"]
    with pytest.raises(DataError, match=r"message 1: the tokenizer joins the end of the prompt"):
        encode(chat, conversation(USER, {**ANSWER, "content": "\u0301 is e with an accent"}))


def test_fingerprints_tell_encoders_apart(chat: PreTrainedTokenizerFast) -> None:
    def fingerprint(**options: Any) -> str:
        return ConversationEncoder(chat, **options).fingerprint

    first = fingerprint()
    assert first == fingerprint(train_on="assistant", stop_ids=[chat.eos_token_id])
    others = [fingerprint(train_on="last"), fingerprint(truncate_to=9), fingerprint(stop_ids=[0])]
    chat.chat_template += " "
    others.append(fingerprint())
    assert len({first, *others}) == 5


def test_encoders_travel_to_worker_processes(chat: PreTrainedTokenizerFast) -> None:
    encoder = ConversationEncoder(chat)
    copy = pickle.loads(pickle.dumps(encoder))
    (mine,), (theirs,) = (each.encode(conversation(*CONVERSATION)) for each in (encoder, copy))
    assert mine.ids.tolist() == theirs.ids.tolist()
    assert mine.trained.tolist() == theirs.trained.tolist()
    assert copy.fingerprint == encoder.fingerprint


def pairs_of(characters: Any) -> Any:
    texts = st.text(alphabet=characters, min_size=1)
    texts = texts.filter(lambda text: text.strip() and "<|" not in text)
    return st.lists(st.tuples(texts, texts, st.booleans()), min_size=1, max_size=4)


@given(pairs_of(st.characters(codec="utf-8")))
def test_random_conversations_train_exactly_the_answers(pairs: Any) -> None:
    tokenizer = byte_tokenizer()
    messages, expected = [], ""
    for question, answer, trained in pairs:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer, "train": trained})
        expected += f"{answer}<|im_end|>" if trained else ""
    if not expected:
        with pytest.raises(DataError, match="nothing of the conversation is trained"):
            encode(tokenizer, conversation(*messages))
        return
    assert learned(tokenizer, conversation(*messages)) == [expected]


# The vocabulary of these families lacks some bytes, and the tokenizer drops their characters.
@given(pairs_of(st.sampled_from("ab A.,1\n\t<>[]|")))
def test_random_conversations_with_real_merges(pairs: Any) -> None:
    """Examples may be split, and each trains its own answer; nothing is lost or trained twice."""
    for name in ("Qwen2.5", "Llama-3, tokenizer of GPT-2"):
        tokenizer = tokenizer_of(name)
        messages = []
        for question, answer, _ in pairs:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        end = tokenizer.eos_token
        expected = "".join(answer.strip() + end for _, answer, _ in pairs)
        texts = learned(tokenizer, conversation(*messages), stop_ids=stop_ids(name))
        assert "".join("".join(texts).split()) == "".join(expected.split())
