"""Every case of ``cases/`` through the verifier, and every example of the documentation."""

import json
import re
from pathlib import Path

import pytest

from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds.math import MathConfig, math

CASES = Path(__file__).parents[1] / "cases"
DOCUMENT = Path(__file__).parents[3] / "docs" / "verifiers.md"


def cases(name):
    return [json.loads(line) for line in (CASES / name).read_text().splitlines()]


OWN, REPORTED = cases("answers.jsonl"), cases("reported_answers.jsonl")
FAULTS = [case for case in cases("reported_faults.jsonl") if case["verifier"] == "math"]
COUNTED = [case for case in OWN + REPORTED + FAULTS if case["right"] is not None]
CATEGORIES = sorted({case.get("category", "fault") for case in COUNTED})


@pytest.fixture(scope="module")
def judge():
    return math(MathConfig())


def score(judge, gold, response):
    found = judge(Sample(prompt="q", text=response, columns={"answer": gold}))
    return found["reward"] if isinstance(found, dict) else found


@pytest.mark.parametrize("category", CATEGORIES)
def test_each_case_has_its_right_value(judge, category):
    wrong = [
        (case["gold"], case["response"], f"should be {case['right']}")
        for case in COUNTED
        if case.get("category", "fault") == category
        and score(judge, case["gold"], case["response"]) != float(case["right"])
    ]
    assert wrong == []


def test_both_values_are_tried_in_many_categories():
    assert len(OWN) >= 150 and len(REPORTED) == 124 and len(FAULTS) == 29
    for value in (True, False):
        assert len({case["category"] for case in OWN if case["right"] is value}) >= 15


def test_every_gold_scores_itself(judge):
    """As the row writes it, and as the kind itself would answer."""
    failed = []
    for gold in sorted({case["gold"] for case in COUNTED}):
        boxed = MathConfig().own_answer({"answer": gold})
        texts = (gold, boxed, f"<think>77</think>{boxed}")
        failed += [text for text in texts if score(judge, gold, text) != 1.0]
    assert failed == []


EXAMPLE = re.compile(r"^\| `(?P<gold>[^`]+)` \| `(?P<response>[^`]+)` \| (?P<score>[01]) \|$", re.M)


def test_the_examples_of_the_documentation(judge):
    examples = list(EXAMPLE.finditer(DOCUMENT.read_text()))
    assert len(examples) >= 30
    wrong = [m[0] for m in examples if score(judge, m["gold"], m["response"]) != float(m["score"])]
    assert wrong == []
