"""What a reward model reads: its own template's text, wherever it has one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_templates import STRICT_TURNS, TOOLS_IN_SYSTEM
from episodes import episode, trajectory
from tokenizers import processors

from rlpost.data.encoder import PromptEncoder
from rlpost.data.rows import Row
from rlpost.errors import DataError
from rlpost.models.tiny import CHAT_TEMPLATE, byte_tokenizer
from rlpost.training.reward.reader import RewardReader, RewardSample
from rlpost.types import Episode, Prompt

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "weather"}}
# Turns with other words than the policy's, and a beginning-of-sequence token.
OWN = (
    "{{ bos_token }}{% for m in messages %}({{ m['role'] }}) {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}(assistant) {% endif %}"
)


def tokenizer(directory: Path, template: str | None) -> str:
    """Save a tokenizer whose ordinary encoding adds a beginning-of-sequence token."""
    shutil.rmtree(directory, ignore_errors=True)  # a template of its own file would stay
    found = byte_tokenizer()
    found.bos_token = "<|endoftext|>"
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", found.bos_token_id)]
    )
    found.chat_template = template
    found.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Return what a reward model reads of one prompt and the response ``ho``, as text."""
    from transformers import AutoTokenizer

    def read(
        prompt: Any,
        *,
        policy: str | None,
        reward: str | None,
        tools: Any = None,
        system_prompt: str | None = None,
    ) -> str:
        policy_path = tokenizer(tmp_path / "policy", policy)
        reward_path = tokenizer(tmp_path / "reward", reward)
        policy_tokenizer = AutoTokenizer.from_pretrained(policy_path)
        row = Row(columns={"prompt": prompt, "tools": tools}, address="t.jsonl:7")
        encoder = PromptEncoder(policy_tokenizer, system_prompt=system_prompt)
        encoded = encoder.encode(row, uid="0:0")
        response = policy_tokenizer("ho", add_special_tokens=False)["input_ids"]
        sample = RewardSample.of(encoded, ended(encoded, response))
        reader = RewardReader(model_path=reward_path, policy_path=policy_path, name="helpful")
        reader.check(encoded)
        return policy_tokenizer.decode(reader.ids(sample))

    return read


def ended(prompt: Prompt, response_ids: Sequence[int]) -> Episode:
    return episode(trajectory(response_ids, prompt_ids=prompt.token_ids), text="ho")


BOS = "<|endoftext|>"


@pytest.mark.parametrize("policy", [CHAT_TEMPLATE, None, STRICT_TURNS])
def test_a_string_is_a_user_message_of_its_own_template(read: Any, policy: str | None) -> None:
    assert read("hi", policy=policy, reward=OWN) == f"{BOS}(user) hi\n(assistant) ho\n"


def test_messages_and_system_prompts_are_kept(read: Any) -> None:
    expected = f"{BOS}(system) Be brief.\n(user) hi\n(assistant) ho\n"
    assert read([SYSTEM, USER], policy=CHAT_TEMPLATE, reward=OWN) == expected
    own = read("hi", policy=CHAT_TEMPLATE, reward=OWN, system_prompt="Be brief.")
    assert own == expected


def test_the_policys_ids_are_read_where_they_are_the_same(read: Any) -> None:
    shared = f"{BOS}(user) hi\n(assistant) ho"  # as sampled: nothing behind the response
    assert read("hi", policy=OWN, reward=OWN) == shared
    assert read("hi", policy=OWN, reward=None) == shared
    assert read("hi", policy=None, reward=None) == f"{BOS}hiho"


def test_tools_are_shown(read: Any) -> None:
    both = {"policy": TOOLS_IN_SYSTEM, "tools": [TOOL]}
    own = TOOLS_IN_SYSTEM.replace("You may call", "Tools")
    assert '"name": "weather"' in read([USER], reward=own, **both)
    with pytest.raises(DataError, match=r"^t\.jsonl:7: reward_models\.helpful: .*'weather'"):
        read([USER], reward=OWN, **both)


def test_without_a_template_only_a_string_that_stands_alone(read: Any, tmp_path: Path) -> None:
    """Of another vocabulary, so that the policy's ids mean nothing to it."""
    from transformers import AutoTokenizer

    policy_path = tokenizer(tmp_path / "policy", CHAT_TEMPLATE)
    other = AutoTokenizer.from_pretrained(tokenizer(tmp_path / "other", None))
    other.add_tokens(["ho"])
    other.save_pretrained(tmp_path / "other")
    reader = RewardReader(
        model_path=str(tmp_path / "other"), policy_path=policy_path, name="helpful"
    )
    policy = AutoTokenizer.from_pretrained(policy_path)

    def sample(prompt: Any, **options: Any) -> RewardSample:
        row = Row(columns={"prompt": prompt}, address="t.jsonl:7")
        encoded = PromptEncoder(policy, **options).encode(row, uid="0:0")
        return RewardSample.of(encoded, ended(encoded, (5,)))

    assert other.decode(reader.ids(sample("hi"))) == f"{BOS}hiho"
    for bad in (sample([USER]), sample("hi", system_prompt="Be brief.")):
        with pytest.raises(DataError, match=r"^t\.jsonl:7: .* must have a chat template"):
            reader.ids(bad)


def test_a_reward_model_without_a_tokenizer(tmp_path: Path) -> None:
    policy = tokenizer(tmp_path / "policy", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^reward_models\.kind\.path: .*no usable tokenizer"):
        RewardReader(model_path=str(tmp_path / "empty"), policy_path=policy, name="kind")
