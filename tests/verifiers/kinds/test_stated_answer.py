"""What wrong responses vote for: equal answers are equal texts."""

import pytest

from rlpost.verifiers.kinds.exact import ExactConfig, Take
from rlpost.verifiers.kinds.format import FormatConfig
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.kinds.math import MathConfig
from rlpost.verifiers.kinds.names import NamesConfig
from rlpost.verifiers.kinds.numeric import NumericConfig

CITY = {"answer": "Paris", "others": ["Rome", "New York"]}


@pytest.mark.parametrize(
    ("config", "one", "other"),
    [
        (MathConfig(), "The answer is 1,200.", "3 * 400, so \\boxed{1200}"),
        (MathConfig(), "The answer is Anna. She is tall.", "First Ben. The answer is: **Anna**"),
        (MathConfig(), "<think>7</think>The answer is 8", "8"),
        (NumericConfig(), "It is 0.50", "so 0.5"),
        (NamesConfig(), "It is new\nyork.", "New York!"),
        (ExactConfig(take=Take.LAST_LINE, ignore_case=True), "well\nYES", " yes "),
    ],
)
def test_equal_answers_are_equal_texts(config, one, other):
    said = config.stated_answer(one, CITY)
    assert said and said == config.stated_answer(other, CITY)
    assert said != config.stated_answer("The answer is 77 Rome", CITY)


@pytest.mark.parametrize("config", [MathConfig(), NumericConfig(), NamesConfig(), ExactConfig()])
def test_an_empty_response_says_nothing(config):
    assert config.stated_answer(" ", CITY) is None


def test_kinds_that_cannot_tell_say_nothing():
    for config in (FormatConfig(), FunctionConfig(), ExactConfig(extract=r"\d+")):
        assert config.stated_answer("The answer is 7.", CITY) is None
