"""The same rule, written for three frameworks: the files of docs/examples/ as users run them."""

import json
import re
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from rlpost.data.sources.load import load_rows
from rlpost.verifiers.base import Sample
from rlpost.verifiers.check import check
from rlpost.verifiers.configured import configured
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.workers.service import VerifierService

ROOT = Path(__file__).parents[1]
FUNCTIONS = {
    "right_and_short": "docs/examples/trl_reward.py:right_and_short",
    "compute_score": "docs/examples/verl_reward.py:compute_score",
    "reward_func": "docs/examples/openrlhf_reward.py:reward_func",
}
RESPONSES = [
    "6", "2 * 3 is 6", "7", "", "six", "-6", "6 of 7", "\u516d 6", "6" + " " * 70, "x" * 64 + "6",
]  # fmt: skip
REWARDS = [1 + 63 / 256, 1 + 54 / 256, 63 / 256, 0.25, 61 / 256, 62 / 256, 58 / 256,
           1 + 61 / 256, 1.0, 1.0]  # fmt: skip
QUESTION = [{"role": "user", "content": "What is 2 * 3?"}]


def plain_row(place: Path) -> Path:
    file = place / "train.jsonl"
    file.write_text(json.dumps({"prompt": "What is 2 * 3?", "answer": "6"}) + "\n")
    return file


def chat_row(place: Path) -> Path:
    file = place / "chat.jsonl"
    file.write_text(json.dumps({"prompt": QUESTION, "answer": 6}) + "\n")
    return file


def verl_row(place: Path) -> Path:
    """As verl's own scripts write it; ``answer`` is for TRL, which has no other convention."""
    row = {
        "data_source": "openai/gsm8k",
        "prompt": QUESTION,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "6"},
        "extra_info": {"split": "train", "index": 0},
        "answer": "6",
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), place / "train.parquet")
    return place / "train.parquet"


@pytest.fixture(scope="module")
def service():
    cfg = FunctionConfig(path=[str(ROOT / path) for path in FUNCTIONS.values()], timeout_s=20.0)
    service = VerifierService(check(configured(cfg)), num_workers=1)
    yield service
    service.close()


@pytest.mark.parametrize("written", [plain_row, chat_row, verl_row])
async def test_the_same_rule_gives_the_same_rewards(service, tmp_path, written):
    [row] = load_rows(str(written(tmp_path)))
    columns = {name: value for name, value in row.columns.items() if name != "prompt"}
    prompt_text = "<|im_start|>user\nWhat is 2 * 3?<|im_end|>\n<|im_start|>assistant\n"
    samples = [
        Sample(
            prompt=row.columns["prompt"],
            text=text,
            prompt_text=prompt_text,
            columns=columns,
            address=row.address,
        )
        for text in RESPONSES
    ]
    judged = await service.judge(samples)
    for verdicts, reward, text in zip(judged, REWARDS, RESPONSES, strict=True):
        assert [v.verifier for v in verdicts] == list(FUNCTIONS)
        assert [(v.reward, v.error) for v in verdicts] == [(reward, None)] * 3, text
        assert [v.info["right"] for v in verdicts] == [float(reward >= 1)] * 3


async def test_the_two_rewards_of_the_page_are_two_rewards(tmp_path):
    page = (ROOT / "docs" / "verifiers.md").read_text()
    [block] = re.findall(r"### Several functions\n\n```python\n(.*?)```", page, re.S)
    (tmp_path / "rewards.py").write_text(block)
    path = [f"{tmp_path}/rewards.py:{name}" for name in ("correct", "short")]
    configs = check(configured(FunctionConfig(path=path, weights=[1.0, 0.2])))
    assert {name: cfg.weight for name, cfg in configs.items()} == {"correct": 1.0, "short": 0.2}
    service = VerifierService(configs, num_workers=1)
    try:
        texts = ["6", "that is 6", "5"]
        samples = [Sample(prompt="2 * 3?", text=text, columns={"answer": "6"}) for text in texts]
        judged = await service.judge(samples)
    finally:
        service.close()
    assert [[v.reward for v in verdicts] for verdicts in judged] == [
        [1.0, 1 - 1 / 9], [1.0, 0.0], [0.0, 1 - 1 / 9],
    ]  # fmt: skip


def test_each_file_names_its_own_command():
    for path in FUNCTIONS.values():
        text = (ROOT / path.partition(":")[0]).read_text()
        assert f"rlpost rl verifier=function verifier.path={path}\n" in text
