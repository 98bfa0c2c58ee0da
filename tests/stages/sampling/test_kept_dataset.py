"""What rejection sampling keeps can be trained on again: the same prompt, token by token."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_templates import TOOLS_IN_SYSTEM
from episodes import episode, trajectory

from rlpost.data.dataset import DataConfig, PromptDataset
from rlpost.data.encoder import PromptEncoder
from rlpost.data.rows import Row
from rlpost.models.tiny import byte_tokenizer
from rlpost.stages.sampling.kept_dataset import write_kept
from rlpost.types import Group, Prompt, Verdict

USER = {"role": "user", "content": "weather?"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def kept(prompt: Prompt, *, text: str = "sunny") -> Group:
    verdict = Verdict(verifier="exact", reward=1.0)
    sampled = trajectory((5,), prompt_ids=prompt.token_ids, versions=2)
    judged = episode(
        sampled, uid="0:3", sample=1, text=text, seed=9, verdicts=(verdict,), reward=1.0
    )
    return Group(prompt=prompt, episodes=(judged,))


@pytest.mark.parametrize(
    ("prompt", "options", "tools", "stored"),
    [
        ("weather?", {}, None, "weather?"),
        ("weather?", {"system_prompt": "Be brief."}, None, [SYSTEM, USER]),
        ([USER], {}, None, [USER]),
        ([USER], {"system_prompt": "Be brief."}, None, [SYSTEM, USER]),
        ("weather?", {}, [TOOL], [USER]),
        (
            [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}],
            {},
            json.dumps([TOOL]),
            [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}],
        ),
    ],
)
def test_what_is_kept_is_read_again(
    tmp_path: Path, prompt: Any, options: Any, tools: Any, stored: Any
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TOOLS_IN_SYSTEM
    row = Row(columns={"prompt": prompt, "tools": tools}, address="t.jsonl:7")
    sampled = PromptEncoder(tokenizer, **options).encode(row, uid="0:3")
    assert write_kept(tmp_path, 4, [kept(sampled)], model="some/model") == 1
    path = tmp_path / "step_000004.jsonl"
    record = json.loads(path.read_text())
    answer = "sunny" if isinstance(stored, str) else [{"role": "assistant", "content": "sunny"}]
    assert (record["prompt"], record["completion"]) == (stored, answer)
    assert record["provenance"] == {
        "source": "t.jsonl:7",
        "uid": "0:3",
        "sample": 1,
        "model": "some/model",
        "version": 2,
        "seed": 9,
        "reward": 1.0,
        "verdicts": {"exact": 1.0},
    }
    again = PromptDataset.load(DataConfig(train=str(path)), tokenizer=tokenizer).prompt(0, 0)
    assert again.token_ids == sampled.token_ids
    assert again.tools == sampled.tools


def test_a_base_models_text_stays_text(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    sampled = PromptEncoder(tokenizer).encode(Row(columns={"prompt": "2 *"}, address=""), uid="0:3")
    # No reader of rows would take an answer without text.
    groups = [kept(sampled, text="\n"), kept(sampled)]
    assert write_kept(tmp_path, 1, groups, model="some/model") == 1
    record = json.loads((tmp_path / "step_000001.jsonl").read_text())
    assert (record["prompt"], record["completion"]) == ("2 *", "sunny")
