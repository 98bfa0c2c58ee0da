import pytest

from rlpost.errors import DataError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds.math import MathConfig, math


@pytest.fixture(scope="module")
def judge():
    return math(MathConfig())


def _reward(judge, text, answer):
    score = judge(Sample(prompt="q", text=text, columns={"answer": answer}, address="f.jsonl:3"))
    return score["reward"] if isinstance(score, dict) else score


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (6, "2 * 3 = 6"),
        ("6", "The answer is $6$."),
        ("1/2", "0.5"),
        (r"\frac{1}{2}", r"so \boxed{1/2}"),
        ("0.5", r"$\frac{1}{2}$"),
        (r"2\sqrt{3}", r"$\sqrt{12}$"),
        ("72,000", "72000"),
        ("50%", r"that makes $50\%$"),
        ("1e5", "100000"),
        ("1.5e-3", "0.0015"),
        ("(1, 2)", "$(1,2)$"),
        ("(1, 2)", "(1, 2)"),
        ("x=5", "$x=5$"),
        ("3 cm", "3"),
        (r"\$18", "$18$"),
        ("The answer is 5", "5"),
        ("48 clips in May.\n#### 72", "72"),
        (r"\boxed{7}", "seven is 7"),
        ("-3", "so we get -3"),
        ("36", "4 * 9 = 36"),
        ("300000000", r"$3\cdot 10^8$"),
        ("7/3", r"\boxed{\frac{14}{6}}"),
        ("1024", "$2^{10}$"),
        (r"3 \cdot 5", r"\boxed{3 \cdot 5}"),
    ],
)
def test_equal_answers(judge, answer, text):
    assert _reward(judge, text, answer) == 1.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("6", "66"),
        ("6", "6 or 7"),
        ("6", "-6"),
        ("1/2", "2"),
        (r"\frac{1}{2}", "2"),
        ("1e5", "1"),
        ("(1, 2)", "2"),
        ("3", r"\boxed{\frac{6}{2}}"),
        ("6", ""),
        ("6", "I do not know"),
        ("36", "To find 4 * 9, we multiply both the"),
        ("36", r"\boxed{4 \times 9}"),
        ("63", "9 x 7 = 63, so 9 * 7 ="),
        ("3", "we need 10 - 7"),
        ("8", "that is 3 + 5"),
    ],
)
def test_other_answers(judge, answer, text):
    assert _reward(judge, text, answer) == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        *("###", "?!", "\\boxed{}", "<think>5", "The answer is"),
        *("<p></p>", "<br/>", "&nbsp;", "\\text{}", "\\(\\)", "\\,", "\u3164"),
    ],
)
def test_gold_that_no_response_can_equal_is_refused(judge, answer):
    rule = "column 'answer' must hold a letter or a digit, got"
    assert MathConfig().refusal({"answer": answer}).startswith(rule)
    with pytest.raises(DataError, match=rf"f\.jsonl:3: {rule}"):
        _reward(judge, answer, answer)


@pytest.mark.parametrize(
    "answer", ["<p>5</p>", "\u2205", "\\emptyset", "\\infty", "\\text{no}", "p"]
)
def test_gold_that_a_page_shows_is_accepted(answer):
    assert MathConfig().refusal({"answer": answer}) is None


@pytest.mark.parametrize("answer", [6, 0.5, "∞", "\\emptyset", "the capital of France", "½", "A"])
def test_gold_that_some_response_can_equal_is_kept(answer):
    assert MathConfig().refusal({"answer": answer}) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the response holds no answer"),
        ("<think>6", "the response holds no answer"),
        (r"6, so \boxed{", "the response holds no answer"),
        ("dunno", "no mathematical expression in the answer"),
        ("3 + 3", "the computation is stated, not its result"),
    ],
)
def test_a_response_without_an_answer_says_so(judge, text, reason):
    sample = Sample(prompt="q", text=text, columns={"answer": "6"})
    assert judge(sample) == {"reward": 0.0, "reason": reason}
