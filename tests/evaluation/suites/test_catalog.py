"""Every suite: right golds, no duplicates, sides that share nothing, the same items for ever."""

import hashlib
import json

import pytest

from rlpost.data.rows import Row, Split
from rlpost.data.sources.load import load_rows
from rlpost.errors import UserError
from rlpost.evaluation.suites import item as items_module
from rlpost.evaluation.suites.catalog import SUITES, find_suite
from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds import verifiers
from rlpost.verifiers.kinds.build import build

each_suite = pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
# Scores of different versions of a suite cannot be compared: whoever changes one says so.
FINGERPRINTS = {
    "reasoning": "9142ca1112052ba1",
    "format": "b06df044ea1190a6",
    "general": "1557d8adf095b9a9",
}
DAMAGED = {
    "reasoning": lambda columns: f"It is {columns['answer']}. The answer is 1234567.",
    "format": lambda columns: f"{columns['answer']}\nOr is it Something ELSE?",
    "general": lambda columns: f"{columns['answer']} or {columns['others'][0]}",
}
SIZES = {"reasoning": 320, "format": 144, "general": 238}


def rows(suite, split=Split.HELDOUT, **request):
    found = list(load_rows(f"suite:{suite.name}", split=split, size=10**5, **request))
    assert all(isinstance(row, Row) for row in found)
    return found


def judged(suite):
    judge = build(verifiers.get(suite.verifier).config())

    def reward(row, text):
        score = judge(Sample(prompt=row.columns["prompt"], text=text, columns=row.columns))
        return score["reward"] if isinstance(score, dict) else score

    return reward


@each_suite
def test_the_items_are_those_of_this_version(suite):
    text = json.dumps([[row.columns[c] for c in ("prompt", "answer")] for row in rows(suite)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FINGERPRINTS[suite.name]
    assert len(rows(suite)) == SIZES[suite.name]


@each_suite
def test_no_row_is_refused_and_every_gold_scores_1(suite):
    cfg, reward = verifiers.get(suite.verifier).config(), judged(suite)
    for row in rows(suite):
        assert cfg.refusal(row.columns) is None
        assert reward(row, cfg.own_answer(row.columns)) == 1
        assert reward(row, row.columns["answer"]) == 1
        assert reward(row, f"<think>hm</think>{row.columns['answer']}") == 1


@each_suite
def test_wrong_and_empty_responses_score_0(suite):
    reward = judged(suite)
    for row in rows(suite):
        assert reward(row, "") == 0
        assert reward(row, DAMAGED[suite.name](row.columns)) == 0


@pytest.mark.parametrize("name", ["reasoning", "general"])
def test_the_answers_of_other_items_score_0(name):
    reward, found = judged(SUITES[name]), rows(SUITES[name])
    for row in found:
        kind, answer = row.columns["kind"], row.columns["answer"]
        right = {answer, *row.columns.get("accepted", ())}
        others = {each.columns["answer"] for each in found if each.columns["kind"] == kind}
        wrong = sorted(others - right)
        assert len(wrong) > 2
        assert not any(reward(row, f"The answer is {each}.") for each in wrong[:3])


@each_suite
def test_no_question_is_asked_twice(suite):
    held_out = suite.held_out()
    assert len({each.prompt for each in held_out}) == len(held_out)
    assert len({each.key for each in held_out}) == len(held_out)


trainable = pytest.mark.parametrize(
    "suite", [each for each in SUITES.values() if each.training], ids=lambda suite: suite.name
)


@trainable
def test_nothing_that_is_trained_on_is_asked(suite):
    asked = {each.key for each in suite.held_out()}
    for seed in range(3):
        trained = suite.training(600, seed)
        assert len(trained) == len({each.prompt for each in trained}) == 600
        assert not asked & {each.key for each in trained}


@trainable
def test_without_the_split_they_would_overlap(suite, monkeypatch):
    asked = {each.key for each in suite.held_out()}
    monkeypatch.setattr(items_module, "is_held_out", lambda key: False)
    trained = {each.key for each in suite.training(600, 0)}
    assert any(items_module.HELDOUT_ONE_IN and key in asked for key in trained)


@trainable
def test_training_rows_follow_the_seed_and_held_out_rows_do_not(suite):
    def prompts(**request):
        name = f"suite:{suite.name}"
        return [row.columns["prompt"] for row in load_rows(name, size=50, **request)]

    assert prompts(seed=1) == prompts(seed=1) != prompts(seed=2)
    held_out = [prompts(split=Split.HELDOUT, seed=seed) for seed in (1, 2)]
    assert held_out[0] == held_out[1] and len(held_out[0]) == 50


@each_suite
def test_the_first_items_are_of_every_kind(suite):
    kinds = [each.kind for each in suite.held_out()]
    assert set(kinds[:40]) == set(kinds)


def test_a_kind_of_few_items_gives_those_that_there_are():
    found = list(load_rows("suite:format", size=3000))
    kinds = [row.columns["kind"] for row in found]
    assert 80 < kinds.count("case") < 500 == kinds.count("json")
    assert len({row.columns["prompt"] for row in found}) == len(found)


def test_what_is_only_evaluated_on_cannot_be_trained_on():
    with pytest.raises(UserError, match=r"data.train: suite:general is for evaluation only"):
        list(load_rows("suite:general"))


def test_an_unknown_suite_is_refused_with_the_list():
    with pytest.raises(UserError, match="one of reasoning, format, general, got 'reasonin'; did"):
        find_suite("reasonin", field="suites[0]")
    with pytest.raises(UserError, match=r"data.train: a suite must be one of reasoning"):
        list(load_rows("suite:maths"))
