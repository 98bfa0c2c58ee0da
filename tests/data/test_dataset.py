"""The whole way from a setting to checked prompts."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chat_templates import TOOLS_IN_SYSTEM
from omegaconf import OmegaConf
from pyarrow import parquet
from transformers import PreTrainedTokenizerFast

from rlpost.bounds import check_config
from rlpost.data.bad_rows import OnBadRow, OnLongPrompt
from rlpost.data.cursor import PromptCursor
from rlpost.data.dataset import DataConfig, PromptDataset, heldout_source
from rlpost.errors import DataError, UserError


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def load(cfg: DataConfig, tokenizer: Any, **options: Any) -> PromptDataset:
    return PromptDataset.load(cfg, tokenizer=tokenizer, **options)


def test_arithmetic_with_a_cursor(chat: PreTrainedTokenizerFast) -> None:
    data = load(DataConfig(), chat)
    cursor = PromptCursor(len(data), fingerprint=data.fingerprint)
    prompts = [data.prompt(epoch, row) for epoch, row in cursor.take(2 * len(data))]
    assert data.name == "arithmetic"
    assert len(data) == 92
    assert len({p.uid for p in prompts}) == 2 * len(data)
    assert {p.text for p in prompts[: len(data)]} == {p.text for p in prompts[len(data) :]}
    assert data.prompt(3, 5).uid == "3:5"
    assert data.skipped == []


def test_generated_sources_hold_out_rows_of_their_own(chat: PreTrainedTokenizerFast) -> None:
    for name in ("arithmetic", "reasoning_gym:chain_sum"):
        cfg = DataConfig(train=name, size=30, heldout_size=20)
        train, held_out = load(cfg, chat), load(cfg, chat, split="heldout")
        assert (len(train), len(held_out)) == (30, 20)
        assert train.name == held_out.name
        texts = [{d.prompt(0, i).text for i in range(len(d))} for d in (train, held_out)]
        assert not texts[0] & texts[1]
        assert (held_out.num_asked_in(train), train.num_asked_in(train)) == (0, 30)


def test_a_file_has_no_held_out_side(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    train = jsonl(tmp_path / "train.jsonl", [{"prompt": "a"}])
    cfg = DataConfig(train=train)
    assert heldout_source(cfg) is None
    assert heldout_source(DataConfig()) == "arithmetic"
    with pytest.raises(UserError, match=r"data\.heldout is not set"):
        load(cfg, chat, split="heldout")
    cfg.heldout = jsonl(tmp_path / "eval.jsonl", [{"prompt": str(i)} for i in range(9)])
    cfg.heldout_size = 4
    held_out = load(cfg, chat, split="heldout")
    assert [held_out.prompt(0, i).text for i in range(len(held_out))] == ["0", "1", "2", "3"]
    assert held_out.name == "eval"


def test_verl_parquet_becomes_prompts(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "verl.parquet"
    messages = [{"role": "user", "content": "1 + 1?"}]
    row = {
        "data_source": "sums",
        "prompt": messages,
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 0},
    }
    parquet.write_table(pa.Table.from_pylist([row]), path)
    prompt = load(DataConfig(train=str(path)), chat).prompt(0, 0)
    assert prompt.columns["ground_truth"] == "2"
    assert prompt.columns["data_source"] == "sums"
    assert prompt.token_ids == tuple(
        chat.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    )
    assert prompt.address == f"{path}[0]"


BAD_ROWS = [
    ('{"prompt": "x"', r":2: column 15: not valid JSON"),
    ({"question": "x"}, r":2: no column 'prompt'; columns present: question"),
    ({"prompt": ""}, r":2: the prompt in column 'prompt' is empty"),
    ({"prompt": [{"role": "x"}]}, r":2: message 0: role"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
def test_bad_rows_stop_the_run_or_are_listed(
    tmp_path: Path, chat: PreTrainedTokenizerFast, bad: Any, message: str
) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"prompt": "a"}, bad, {"prompt": "b"}])
    with pytest.raises(DataError, match=message) as caught:
        load(DataConfig(train=train), chat)
    data = load(DataConfig(train=train, on_bad_row=OnBadRow.skip), chat)
    assert [data.prompt(0, i).text for i in range(len(data))] == ["a", "b"]
    assert data.skipped == [str(caught.value)]


def test_long_prompts_have_their_own_switch(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"prompt": "a"}, {"prompt": "b" * 99}])
    with pytest.raises(DataError, match=r":2: the prompt has \d+ tokens, at most 80 fit"):
        # on_bad_row does not cover length, and the caller's bound holds below the user's.
        cfg = DataConfig(train=train, max_prompt_tokens=500, on_bad_row=OnBadRow.skip)
        load(cfg, chat, max_prompt_tokens=80)
    cfg = DataConfig(train=train, max_prompt_tokens=80, on_long_prompt=OnLongPrompt.skip)
    data = load(cfg, chat, max_prompt_tokens=500)
    assert len(data) == 1
    assert data.skipped[0].startswith(f"{train}:2: ")
    assert len(load(DataConfig(train=train), chat)) == 2


def test_nothing_usable_is_an_error(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    empty = jsonl(tmp_path / "e.jsonl", [])
    with pytest.raises(DataError, match=r"e\.jsonl: no usable prompt for data.train: .* no rows"):
        load(DataConfig(train=empty), chat)
    bad = jsonl(tmp_path / "b.jsonl", [{"q": 1}, {"q": 2}])
    with pytest.raises(DataError, match=r"all 2 rows were skipped, first: .*b\.jsonl:1: no column"):
        load(DataConfig(train=bad, on_bad_row=OnBadRow.skip), chat)


def test_fingerprint_follows_content_only(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]

    def fingerprint(rows: list, name: str = "t.jsonl", **options: Any) -> str:
        cfg = DataConfig(train=jsonl(tmp_path / name, rows), **options)
        return load(cfg, chat).fingerprint

    original = fingerprint(rows)
    assert fingerprint(rows, "moved.jsonl") == original
    assert fingerprint([dict(reversed(r.items())) for r in rows]) == original
    assert fingerprint(rows[::-1]) != original
    assert fingerprint([rows[0], {"prompt": "b", "answer": "3"}]) != original
    assert fingerprint(rows, system_prompt="Be brief.") != original


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heldout_size": 0}, r"data.heldout_size must be in \[1, .*got 0"),
        ({"size": 0}, r"data.size must be in \[1, .*got 0"),
        ({"max_prompt_tokens": -1}, r"data.max_prompt_tokens must be in \[1, .*got -1"),
        ({"prompt_column": ""}, "data.prompt_column must not be empty"),
        ({"system_prompt": " "}, "data.system_prompt must not be blank"),
        ({"train": "t.jsonl", "size": 5}, "data.size=5 applies to generated sources"),
        ({"train": "arithmetics"}, "data.train: no data source is called 'arithmetics'"),
        ({"heldout": "zzz"}, "data.heldout: no data source is called 'zzz'"),
        ({"train": "t.jsonl", "heldout": "./t.jsonl"}, "are the same file"),
    ],
)
def test_impossible_settings(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_config(DataConfig(**settings), "data")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train": "arithmetic", "heldout": "arithmetic"},
        {"train": "t.jsonl", "heldout": "e.jsonl"},
        {"train": "a/b", "heldout": "a/b"},  # train and test split of one hub dataset
        {"train": "reasoning_gym:chain_sum", "size": 5, "heldout_size": 1},
    ],
)
def test_possible_settings(settings: dict) -> None:
    check_config(DataConfig(**settings), "data")


def test_settings_survive_omegaconf() -> None:
    overrides = OmegaConf.from_dotlist(["on_bad_row=skip", "size=7", "heldout=null"])
    merged = OmegaConf.merge(OmegaConf.structured(DataConfig), overrides)
    assert OmegaConf.to_object(merged) == DataConfig(size=7, on_bad_row=OnBadRow.skip)


HEAVY = ("torch", "transformers", "ray", "vllm", "datasets", "pyarrow", "reasoning_gym", "numpy")


def heavy_imports(modules: str) -> list[str]:
    code = (
        f"import sys, json, {modules}; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def test_settings_and_loader_import_nothing_heavy() -> None:
    assert heavy_imports("rlpost.data.dataset, rlpost.data.cursor") == []
    assert heavy_imports("numpy") == ["numpy"]  # negative control


def test_rows_without_what_a_verifier_needs(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b"}, {"prompt": "c", "answer": None}]
    train = jsonl(tmp_path / "t.jsonl", rows)
    needed = {"answer": "verifier=exact"}
    with pytest.raises(DataError, match=r"t\.jsonl:2: no column 'answer', which verifier=exact"):
        load(DataConfig(train=train), chat, columns=needed)
    data = load(DataConfig(train=train, on_bad_row=OnBadRow.skip), chat, columns=needed)
    assert (len(data), len(data.skipped)) == (1, 2)
    assert len(load(DataConfig(train=train), chat)) == 3  # negative control


def test_rows_that_a_verifier_refuses(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"prompt": "a", "answer": a} for a in ("1", "x", "2")])

    def refuse(columns: Mapping[str, Any]) -> str | None:
        return None if columns["answer"].isdigit() else "column 'answer' must be a digit"

    with pytest.raises(DataError, match=r"t\.jsonl:2: column 'answer' must be a digit; fix") as e:
        load(DataConfig(train=train), chat, refuse=refuse)
    data = load(DataConfig(train=train, on_bad_row=OnBadRow.skip), chat, refuse=refuse)
    assert (len(data), data.skipped) == (2, [str(e.value)])


def test_parquet_gives_what_jsonl_gives(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    """Fields that only other rows have reach neither the template nor the columns."""
    chat.chat_template = TOOLS_IN_SYSTEM
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    city = {"type": "object", "properties": {"city": {"type": "string"}}}
    time = {"type": "function", "function": {"name": "time", "parameters": city}}
    rows = [
        {
            "prompt": [{"role": "user", "content": "weather?"}],
            "tools": [tool],
            "data_source": "a",
            "reward_model": {"style": "rule", "ground_truth": "1"},
            "extra_info": {"index": 0, "split": "train"},
        },
        {
            "prompt": [
                {"role": "user", "content": "and now?", "name": "Ada"},
                asked,
                {"role": "tool", "content": "sunny", "tool_call_id": "1"},
            ],
            "tools": [time, tool],
            "reward_model": {"style": "rule", "ground_truth": "2", "tolerance": 0.5},
            "extra_info": {"index": 1, "hints": ["a", None]},
            "hint": "b",
        },
    ]
    table = pa.Table.from_pylist([{**rows[0], "hint": None}, rows[1]])
    parquet.write_table(table, tmp_path / "t.parquet")
    stored = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert "name" in stored[0]["prompt"][0]  # negative control: filled with None
    as_lines = load(DataConfig(train=jsonl(tmp_path / "t.jsonl", rows)), chat)
    as_table = load(DataConfig(train=str(tmp_path / "t.parquet")), chat)
    assert as_table.fingerprint == as_lines.fingerprint
    for index in range(2):
        ours, theirs = as_table.prompt(0, index), as_lines.prompt(0, index)
        assert replace(ours, address="") == replace(theirs, address="")
        assert "None" not in chat.decode(ours.token_ids)
    assert as_lines.prompt(0, 0).columns["hint"] is None
    assert as_lines.prompt(0, 1).columns["data_source"] is None


def test_a_column_that_is_a_string_here_and_a_list_there(
    tmp_path: Path, chat: PreTrainedTokenizerFast
) -> None:
    rows = [{"prompt": "a"}, {"prompt": [{"role": "user", "content": "a"}]}]
    data = load(DataConfig(train=jsonl(tmp_path / "t.jsonl", rows)), chat)
    first, second = data.prompt(0, 0), data.prompt(0, 1)
    assert first.token_ids == second.token_ids
    assert first.conversation == second.conversation
    assert (first.messages, second.messages) == (None, ({"role": "user", "content": "a"},))


def test_a_missing_answer_is_told_from_an_empty_one(
    tmp_path: Path, chat: PreTrainedTokenizerFast
) -> None:
    needed = {"answer": "verifier=exact"}
    for value, lack in (("NaN", r"nothing \(null or NaN\) in column 'answer'"), ("1", "no column")):
        bad = f'{{"prompt": "b", "answer": {value}}}' if value == "NaN" else '{"prompt": "b"}'
        train = jsonl(tmp_path / "t.jsonl", [{"prompt": "a", "answer": "1"}, bad])
        with pytest.raises(DataError, match=rf"t\.jsonl:2: {lack}"):
            load(DataConfig(train=train), chat, columns=needed)


def test_rows_that_turn_out_bad_are_left_out_and_listed(
    tmp_path: Path, chat: PreTrainedTokenizerFast
) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"prompt": prompt} for prompt in "abc"])
    data = load(DataConfig(train=train), chat)
    fewer = data.without({f"{train}:2": "no good", "other.jsonl:1": "not here"})
    assert [fewer.prompt(0, row).text for row in range(len(fewer))] == ["a", "c"]
    assert fewer.skipped == ["no good"] and data.skipped == []
    assert fewer.fingerprint != data.fingerprint
    with pytest.raises(DataError, match="no usable prompt: all rows were skipped: bad"):
        data.without({f"{train}:{line}": "bad" for line in (1, 2, 3)})
