"""Chat templates that behave as those of published model families, each written small.

Every family says by hand, in marked text, what is trained of one conversation: ⟦ and ⟧ stand
around it. The templates are written for these tests: they keep the structure that decides masks
(what ends a turn, what is dropped from past turns, what the generation prompt adds) and leave out
the rest.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from rlpost.models.embedded import materialize

ASK, SAY, ASK_AGAIN, SAY_AGAIN = "What is 2 + 2?", "It is 4.", "And 3 + 3?", "6, I think."
THOUGHT = "Two and two."
CONVERSATION = (
    {"role": "user", "content": ASK},
    {"role": "assistant", "content": SAY},
    {"role": "user", "content": ASK_AGAIN},
    {"role": "assistant", "content": SAY_AGAIN},
)
REASONED = (
    CONVERSATION[0],
    {"role": "assistant", "content": SAY, "reasoning_content": THOUGHT},
    CONVERSATION[2],
    {"role": "assistant", "content": SAY_AGAIN, "reasoning_content": THOUGHT},
)
THOUGHT_IN_CONTENT = (
    CONVERSATION[0],
    {"role": "assistant", "content": f"<think>\n{THOUGHT}\n</think>\n\n{SAY}"},
    CONVERSATION[2],
    {"role": "assistant", "content": f"<think>\n{THOUGHT}\n</think>\n\n{SAY_AGAIN}"},
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A template, its special tokens, and what is trained of the conversation.

    Attributes:
        eos: the tokenizer's end-of-sequence token.
        stops: further tokens of eos_token_id in generation_config.json.
        marked: the examples of ``messages``, with what is trained between ⟦ and ⟧; at ‖ both
            sides are tokenized by themselves.
        refused: the reason, where there are none.
    """

    template: str
    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    stops: tuple[str, ...] = ()
    messages: tuple[dict[str, Any], ...] = CONVERSATION
    marked: tuple[str, ...] = ()
    refused: str = ""
    rules: str = "gpt2"  # how the tokenizer splits text: gpt2, llama3, or pieces (SentencePiece)


@functools.cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with real merges, the family's special tokens and its template.

    Do not write to it: every test gets the same one.
    """
    family = FAMILIES[name]
    rules = _pieces() if family.rules == "pieces" else _byte_level()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(rules))
    if family.rules == "llama3":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_LINES_TOGETHER), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    names = [*family.special, *family.stops, family.eos, *filter(None, [family.bos])]
    tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in dict.fromkeys(names)],
        special_tokens=True,
    )
    tokenizer.bos_token, tokenizer.eos_token = family.bos, family.eos
    tokenizer.chat_template = family.template
    return tokenizer


def stop_ids(name: str) -> list[int]:
    return [tokenizer_of(name).convert_tokens_to_ids(stop) for stop in FAMILIES[name].stops]


@functools.cache
def _byte_level() -> str:
    """Return SmolLM2's tokenizer with the first merges alone, which is quick to read."""
    rules = json.loads((Path(materialize()) / "tokenizer.json").read_text())
    model = rules["model"]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < 4000}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    model["merges"] = [pair for pair in pairs if "".join(pair) in model["vocab"]]
    rules["added_tokens"] = []
    return json.dumps(rules)


# As Llama-3's, line feeds stay together whatever follows; GPT-2's leave the last one to a word.
_LINES_TOGETHER = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"


@functools.cache
def _pieces() -> str:
    """Return a small tokenizer with the rules of Llama-2's and Mistral's.

    A space is put before every text, spaces are ``▁``, and other characters become bytes.
    """
    rules = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()  # merges join no words
    texts = [
        f"[INST] {ASK} [/INST] {SAY}",
        f"[INST] {ASK_AGAIN} [/INST] {SAY_AGAIN}",
        "a]< b]< c]< d]< e]< " * 3,
    ]
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=80, show_progress=False))
    vocab = learner.get_vocab()
    byte_names = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab |= {name: len(vocab) + i for i, name in enumerate(["<unk>", *byte_names])}
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = rules
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer.to_str()


def _each(body: str, *, before: str = "", prompt: str = "", after: str = "") -> str:
    """Return a template: ``before``, each message, then the generation prompt or ``after``."""
    return (
        f"{before}{{% for m in messages %}}{body}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{prompt}{{% else %}}{after}{{% endif %}}"
    )


_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
_CHATML = ("<|im_start|>",)
_LLAMA3 = _each(
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
    before="{{ bos_token }}",
    prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
)
_DEEPSEEK = _each(
    "{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>"
    "{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}",
    before="{{ bos_token }}",
    prompt="<｜Assistant｜><think>\n",
)
_MISTRAL = _each(
    "{% if m.role == 'user' %}[INST] {% if loop.last and sys.text %}{{ sys.text }}\n\n"
    "{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}",
    before="{{ bos_token }}{% set sys = namespace(text='') %}{% if messages[0].role == "
    "'system' %}{% set sys.text = messages[0].content %}{% endif %}",
)
_LAST_QUESTION = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
# Splits an answer's content where thinking ends, as Qwen3's and DeepSeek's templates do.
_SPLIT = (
    "{% set said = m.content %}{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in m.content %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set said = m.content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
)
_QWEN3 = (
    "{% if m.role == 'assistant' %}"
    + _SPLIT
    + "<|im_start|>assistant\n{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "<think>\n{{ thought.strip('\n') }}\n</think>\n\n{% endif %}{{ said.lstrip('\n') }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>"
    "{% endfor %}<|im_end|>\n"
    "{% else %}" + _TURN + "{% endif %}"
)
_QWEN_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
)

FAMILIES = {
    "ChatML": Family(
        template=_each(_TURN, prompt="<|im_start|>assistant\n"),
        special=_CHATML,
        eos="<|im_end|>",
        marked=(
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n⟦{SAY}<|im_end|>⟧\n"
            f"<|im_start|>user\n{ASK_AGAIN}<|im_end|>\n<|im_start|>assistant\n"
            f"⟦{SAY_AGAIN}<|im_end|>⟧",
        ),
    ),
    "Llama-2": Family(
        template=_each(
            "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content.strip() }} [/INST]"
            "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}"
        ),
        special=(),
        bos="<s>",
        eos="</s>",
        rules="pieces",
        marked=(
            f"<s>[INST] {ASK} [/INST]⟦ {SAY} </s>⟧<s>[INST] {ASK_AGAIN} [/INST]⟦ {SAY_AGAIN} </s>⟧",
        ),
    ),
    "Llama-3": Family(
        template=_LLAMA3,
        special=("<|start_header_id|>", "<|end_header_id|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        stops=("<|end_of_text|>", "<|eom_id|>"),
        rules="llama3",
        marked=(
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
            f"{ASK}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦{SAY}<|eot_id|>⟧"
            f"<|start_header_id|>user<|end_header_id|>\n\n{ASK_AGAIN}<|eot_id|>"
            f"<|start_header_id|>assistant<|end_header_id|>\n\n⟦{SAY_AGAIN}<|eot_id|>⟧",
        ),
    ),
    # Two line feeds are one token at the prompt's end, and two in front of a past answer.
    "Llama-3, tokenizer of GPT-2": Family(
        template=_LLAMA3,
        special=("<|start_header_id|>", "<|end_header_id|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        stops=("<|end_of_text|>", "<|eom_id|>"),
        marked=(
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
            f"{ASK}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n‖⟦{SAY}<|eot_id|>⟧",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
            f"{ASK}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{SAY}<|eot_id|>"
            f"<|start_header_id|>user<|end_header_id|>\n\n{ASK_AGAIN}<|eot_id|>"
            f"<|start_header_id|>assistant<|end_header_id|>\n\n‖⟦{SAY_AGAIN}<|eot_id|>⟧",
        ),
    ),
    "Mistral-v0.3": Family(
        template=_MISTRAL,
        special=("[INST]", "[/INST]"),
        bos="<s>",
        eos="</s>",
        rules="pieces",
        marked=(f"<s>[INST] {ASK}[/INST]⟦ {SAY}</s>⟧[INST] {ASK_AGAIN}[/INST]⟦ {SAY_AGAIN}</s>⟧",),
    ),
    # The system message is shown in front of the last question, but only where that comes last.
    "Mistral-v0.3 with a system message": Family(
        template=_MISTRAL,
        special=("[INST]", "[/INST]"),
        bos="<s>",
        eos="</s>",
        rules="pieces",
        messages=({"role": "system", "content": "Be brief."}, *CONVERSATION),
        refused="generation begins with 'Be brief.\\n\\nWhat is 2 + 2?[/INST]'",
    ),
    "Qwen2.5": Family(
        template=_each(_TURN, before=_QWEN_SYSTEM, prompt="<|im_start|>assistant\n"),
        special=_CHATML,
        eos="<|im_end|>",
        stops=("<|endoftext|>",),
        marked=(
            f"<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n{ASK}<|im_end|>\n"
            f"<|im_start|>assistant\n⟦{SAY}<|im_end|>⟧\n<|im_start|>user\n{ASK_AGAIN}<|im_end|>\n"
            f"<|im_start|>assistant\n⟦{SAY_AGAIN}<|im_end|>⟧",
        ),
    ),
    "Qwen3": Family(
        template=_LAST_QUESTION + _each(_QWEN3, prompt="<|im_start|>assistant\n"),
        special=_CHATML,
        eos="<|im_end|>",
        stops=("<|endoftext|>",),
        messages=REASONED,
        marked=(
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n"
            f"⟦<think>\n{THOUGHT}\n</think>\n\n{SAY}<|im_end|>⟧",
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{SAY}<|im_end|>\n"
            f"<|im_start|>user\n{ASK_AGAIN}<|im_end|>\n<|im_start|>assistant\n"
            f"⟦<think>\n{THOUGHT}\n</think>\n\n{SAY_AGAIN}<|im_end|>⟧",
        ),
    ),
    # Thinking is kept until the next question, also in front of calls.
    "Qwen3 with calls": Family(
        template=_LAST_QUESTION + _each(_QWEN3, prompt="<|im_start|>assistant\n"),
        special=_CHATML,
        eos="<|im_end|>",
        stops=("<|endoftext|>",),
        messages=(
            CONVERSATION[0],
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": THOUGHT,
                "tool_calls": [
                    {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
                ],
            },
            {"role": "tool", "content": "4"},
            {"role": "assistant", "content": SAY, "reasoning_content": "Done."},
        ),
        marked=(
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n"
            f"⟦<think>\n{THOUGHT}\n</think>\n\n<tool_call>\n"
            '{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>⟧\n'
            "<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n"
            f"⟦<think>\nDone.\n</think>\n\n{SAY}<|im_end|>⟧",
        ),
    ),
    "Qwen3-Thinking": Family(
        template=_LAST_QUESTION + _each(_QWEN3, prompt="<|im_start|>assistant\n<think>\n"),
        special=_CHATML,
        eos="<|im_end|>",
        stops=("<|endoftext|>",),
        messages=THOUGHT_IN_CONTENT,
        marked=(
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n<think>\n"
            f"⟦{THOUGHT}\n</think>\n\n{SAY}<|im_end|>⟧",
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{SAY}<|im_end|>\n"
            f"<|im_start|>user\n{ASK_AGAIN}<|im_end|>\n<|im_start|>assistant\n<think>\n"
            f"⟦{THOUGHT}\n</think>\n\n{SAY_AGAIN}<|im_end|>⟧",
        ),
    ),
    "Gemma-2/3": Family(
        template=_each(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
            "{{ m.content | trim }}<end_of_turn>\n",
            before="{{ bos_token }}{% if messages[0].role == 'system' %}"
            "{{ raise_exception('System role not supported') }}{% endif %}",
            prompt="<start_of_turn>model\n",
        ),
        special=("<start_of_turn>",),
        bos="<bos>",
        eos="<eos>",
        stops=("<end_of_turn>",),
        marked=(
            f"<bos><start_of_turn>user\n{ASK}<end_of_turn>\n<start_of_turn>model\n"
            f"⟦{SAY}<end_of_turn>⟧\n<start_of_turn>user\n{ASK_AGAIN}<end_of_turn>\n"
            f"<start_of_turn>model\n⟦{SAY_AGAIN}<end_of_turn>⟧",
        ),
    ),
    "Phi-3": Family(
        template=_each(
            "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n",
            prompt="<|assistant|>\n",
            after="{{ eos_token }}",
        ),
        special=("<|user|>", "<|assistant|>", "<|system|>"),
        eos="<|endoftext|>",
        stops=("<|end|>", "<|assistant|>"),
        marked=(
            f"<|user|>\n{ASK}<|end|>\n<|assistant|>\n⟦{SAY}<|end|>⟧\n"
            f"<|user|>\n{ASK_AGAIN}<|end|>\n<|assistant|>\n⟦{SAY_AGAIN}<|end|>⟧",
        ),
    ),
    "Phi-4": Family(
        template=_each(
            "<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>",
            prompt="<|im_start|>assistant<|im_sep|>",
        ),
        special=("<|im_start|>", "<|im_sep|>"),
        bos="<|endoftext|>",
        eos="<|im_end|>",
        marked=(
            f"<|im_start|>user<|im_sep|>{ASK}<|im_end|><|im_start|>assistant<|im_sep|>"
            f"⟦{SAY}<|im_end|>⟧<|im_start|>user<|im_sep|>{ASK_AGAIN}<|im_end|>"
            f"<|im_start|>assistant<|im_sep|>⟦{SAY_AGAIN}<|im_end|>⟧",
        ),
    ),
    "DeepSeek-R1": Family(
        template=_DEEPSEEK,
        special=("<｜User｜>", "<｜Assistant｜>"),
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        messages=THOUGHT_IN_CONTENT,
        marked=(
            f"<｜begin▁of▁sentence｜><｜User｜>{ASK}<｜Assistant｜><think>\n"
            f"⟦{THOUGHT}\n</think>\n\n{SAY}<｜end▁of▁sentence｜>⟧",
            f"<｜begin▁of▁sentence｜><｜User｜>{ASK}<｜Assistant｜>\n\n{SAY}<｜end▁of▁sentence｜>"
            f"<｜User｜>{ASK_AGAIN}<｜Assistant｜><think>\n"
            f"⟦{THOUGHT}\n</think>\n\n{SAY_AGAIN}<｜end▁of▁sentence｜>⟧",
        ),
    ),
    "DeepSeek-R1, answers without thinking": Family(
        template=_DEEPSEEK,
        special=("<｜User｜>", "<｜Assistant｜>"),
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        refused="generation begins with '<think>\\n' where the rendered conversation has 'It is 4.",
    ),
    "SmolLM2": Family(
        template=_each(
            _TURN,
            before=_QWEN_SYSTEM.replace("You help.", "You are SmolLM."),
            prompt="<|im_start|>assistant\n",
        ),
        special=(),
        bos="<|im_start|>",
        eos="<|im_end|>",
        marked=(
            f"<|im_start|>system\nYou are SmolLM.<|im_end|>\n<|im_start|>user\n{ASK}<|im_end|>\n"
            f"<|im_start|>assistant\n⟦{SAY}<|im_end|>⟧\n<|im_start|>user\n{ASK_AGAIN}<|im_end|>\n"
            f"<|im_start|>assistant\n⟦{SAY_AGAIN}<|im_end|>⟧",
        ),
    ),
    # The generation block holds the header and the line feed after the turn; neither is trained.
    "SmolLM3": Family(
        template=_each(
            "{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n"
            "{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}" + _TURN + "{% endif %}",
            prompt="<|im_start|>assistant\n",
        ),
        special=_CHATML,
        eos="<|im_end|>",
        marked=(
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n⟦{SAY}<|im_end|>⟧\n"
            f"<|im_start|>user\n{ASK_AGAIN}<|im_end|>\n<|im_start|>assistant\n"
            f"⟦{SAY_AGAIN}<|im_end|>⟧",
        ),
    ),
    "Zephyr": Family(
        template=_each(
            "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n", prompt="<|assistant|>\n"
        ),
        special=(),
        bos="<s>",
        eos="</s>",
        marked=(
            f"<|user|>\n{ASK}</s>\n<|assistant|>\n⟦{SAY}</s>⟧\n"
            f"<|user|>\n{ASK_AGAIN}</s>\n<|assistant|>\n⟦{SAY_AGAIN}</s>⟧",
        ),
    ),
    "Command-R": Family(
        template=_each(
            "<|START_OF_TURN_TOKEN|>{{ '<|CHATBOT_TOKEN|>' if m.role == 'assistant' else "
            "'<|USER_TOKEN|>' }}{{ m.content | trim }}<|END_OF_TURN_TOKEN|>",
            before="{{ bos_token }}",
            prompt="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        special=("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>"),
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        marked=(
            f"<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>{ASK}<|END_OF_TURN_TOKEN|>"
            f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>⟦{SAY}<|END_OF_TURN_TOKEN|>⟧"
            f"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{ASK_AGAIN}<|END_OF_TURN_TOKEN|>"
            f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>⟦{SAY_AGAIN}<|END_OF_TURN_TOKEN|>⟧",
        ),
    ),
    # One token begins a sequence and ends a turn; the last turn has no line feed after it.
    "OLMo-2": Family(
        template=_each(
            "<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
            "{{ '' if loop.last else '\n' }}{% else %}{{ '\n' }}{% endif %}",
            before="{{ bos_token }}",
            prompt="<|assistant|>\n",
        ),
        special=(),
        bos="<|endoftext|>",
        eos="<|endoftext|>",
        marked=(
            f"<|endoftext|><|user|>\n{ASK}\n<|assistant|>\n⟦{SAY}<|endoftext|>⟧\n"
            f"<|user|>\n{ASK_AGAIN}\n<|assistant|>\n⟦{SAY_AGAIN}<|endoftext|>⟧",
        ),
    ),
    "Granite-3": Family(
        template=_each(
            "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n",
            prompt="<|start_of_role|>assistant<|end_of_role|>",
        ),
        special=("<|start_of_role|>", "<|end_of_role|>"),
        eos="<|end_of_text|>",
        marked=(
            f"<|start_of_role|>user<|end_of_role|>{ASK}<|end_of_text|>\n"
            f"<|start_of_role|>assistant<|end_of_role|>⟦{SAY}<|end_of_text|>⟧\n"
            f"<|start_of_role|>user<|end_of_role|>{ASK_AGAIN}<|end_of_text|>\n"
            f"<|start_of_role|>assistant<|end_of_role|>⟦{SAY_AGAIN}<|end_of_text|>⟧",
        ),
    ),
    # The end of an answer is written in another way once it is past, and its analysis is dropped.
    "gpt-oss": Family(
        template=_each(
            "{% if m.role == 'assistant' %}{% if loop.last and m.thinking %}<|start|>assistant"
            "<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}<|start|>assistant"
            "<|channel|>final<|message|>{{ m.content }}"
            "{{ '<|return|>' if loop.last else '<|end|>' }}"
            "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}",
            prompt="<|start|>assistant",
        ),
        special=("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
        eos="<|return|>",
        stops=("<|call|>",),
        messages=(
            CONVERSATION[0],
            {**CONVERSATION[1], "thinking": THOUGHT},
            CONVERSATION[2],
            {**CONVERSATION[3], "thinking": THOUGHT},
        ),
        marked=(
            f"<|start|>user<|message|>{ASK}<|end|><|start|>assistant"
            f"⟦<|channel|>analysis<|message|>{THOUGHT}<|end|>"
            f"<|start|>assistant<|channel|>final<|message|>{SAY}<|return|>⟧",
            f"<|start|>user<|message|>{ASK}<|end|><|start|>assistant<|channel|>final<|message|>"
            f"{SAY}<|end|><|start|>user<|message|>{ASK_AGAIN}<|end|><|start|>assistant"
            f"⟦<|channel|>analysis<|message|>{THOUGHT}<|end|>"
            f"<|start|>assistant<|channel|>final<|message|>{SAY_AGAIN}<|return|>⟧",
        ),
    ),
    # A turn ends where the next begins, so the last one has no end.
    "GLM-4": Family(
        template=_each(
            "<|{{ m.role }}|>\n{{ m.content }}", before="[gMASK]<sop>", prompt="<|assistant|>\n"
        ),
        special=("[gMASK]", "<sop>", "<|assistant|>"),
        eos="<|endoftext|>",
        stops=("<|user|>", "<|observation|>"),
        refused="the rendered answer has none of the tokens that end a turn",
    ),
}
