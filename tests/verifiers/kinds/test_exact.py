import pytest

from rlpost.errors import UserError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds.exact import ExactConfig, Take, exact


def _reward(text, answer="Paris", **settings):
    score = exact(ExactConfig(**settings))(
        Sample(prompt="q", text=text, columns={"answer": answer})
    )
    return score["reward"] if isinstance(score, dict) else score


@pytest.mark.parametrize(
    ("text", "reward"),
    [("Paris", 1.0), ("  Paris\n", 1.0), ("paris", 0.0), ("Paris.", 0.0), ("", 0.0)],
)
def test_whole_response(text, reward):
    assert _reward(text) == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [("I think\nParis \n\n", 1.0), ("Paris", 1.0), ("Paris\nor Rome", 0.0), (" \n ", 0.0)],
)
def test_last_line(text, reward):
    assert _reward(text, take=Take.LAST_LINE) == reward


def test_extract_takes_the_last_match():
    extract = r"<answer>(.*?)</answer>"
    assert _reward("<answer>Rome</answer> no: <answer> Paris\n</answer>", extract=extract) == 1.0
    assert _reward("<answer>Paris</answer> no: <answer>Rome</answer>", extract=extract) == 0.0
    assert _reward("Paris", extract=extract) == 0.0


def test_extract_without_group_takes_the_match():
    assert _reward("It is 42, sir", answer=42, extract=r"\d+") == 1.0


def test_ignore_case():
    assert _reward("pARIS", ignore_case=True) == 1.0
    assert _reward("Rome", ignore_case=True) == 0.0


@pytest.mark.parametrize("extract", ["(", "(a)(b)"])
def test_bad_pattern_is_refused(extract):
    with pytest.raises(UserError, match="extract must"):
        exact(ExactConfig(extract=extract))
