"""reasoning_gym rows: columns, disjoint sides, seeds, and names that do not exist."""

import json

import pytest

from rlpost.data.rows import Row, Split
from rlpost.data.sources.load import load_rows
from rlpost.errors import UserError


def rows(split: Split = Split.TRAIN, *, seed: int = 0, task: str = "chain_sum") -> list[Row]:
    found = list(load_rows(f"reasoning_gym:{task}", split=split, size=40, seed=seed))
    assert all(isinstance(row, Row) for row in found)
    return found  # type: ignore[return-value]


def prompts(found: list[Row]) -> list[str]:
    return [row.columns["prompt"] for row in found]


def test_metadata_lets_the_tasks_own_scorer_judge() -> None:
    from reasoning_gym.factory import get_score_answer_fn

    score = get_score_answer_fn("chain_sum")
    found = rows()
    assert len(found) == 40
    for row in found:
        entry = json.loads(row.columns["metadata"])
        assert entry["question"] == row.columns["prompt"]
        assert score(row.columns["answer"], entry) == 1.0
        assert score("no number", entry) < 1.0


def test_address_names_the_entry() -> None:
    row = rows()[0]
    index = json.loads(row.columns["metadata"])["metadata"]["source_index"]
    assert row.address == f"reasoning_gym:chain_sum[{index}]"


# coin_flip has few distinct questions: two streams of it collide unless the sides are kept apart.
@pytest.mark.parametrize("task", ["chain_sum", "coin_flip"])
def test_splits_share_no_question(task: str) -> None:
    train = {p for seed in range(5) for p in prompts(rows(seed=seed, task=task))}
    held_out = set(prompts(rows(Split.HELDOUT, task=task)))
    assert not train & held_out


def test_training_follows_the_seed_and_held_out_does_not() -> None:
    assert prompts(rows(seed=1)) == prompts(rows(seed=1))
    assert prompts(rows(seed=1)) != prompts(rows(seed=2))
    held_out = prompts(rows(Split.HELDOUT, seed=1))
    assert held_out == prompts(rows(Split.HELDOUT, seed=2))


def test_a_task_with_only_a_scorer_has_no_answer() -> None:
    assert rows(task="propositional_logic")[0].columns["answer"] is None


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("chan_sum", "no task 'chan_sum'; did you mean chain_sum"),
        ("", "no task ''; for example"),
        ("composite", "no usable default settings"),
    ],
)
def test_unusable_tasks_are_user_errors(task: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        rows(task=task)
    assert str(caught.value).startswith("data.train: ")
