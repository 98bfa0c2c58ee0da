"""Golds tried against themselves, through a real worker."""

from rlpost.types import Prompt
from rlpost.verifiers.golds import SAMPLE_ROWS, GoldWatch, failed_golds, sampled_rows
from rlpost.verifiers.kinds.exact import ExactConfig, Take
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.kinds.math import MathConfig
from rlpost.verifiers.kinds.numeric import NumericConfig

LAST_LINE = ExactConfig(take=Take.LAST_LINE)  # no last line equals an answer of two lines
TWO_LINES = "6\n7"


class Rows:
    """Rows with these answers, as a data set hands them out."""

    def __init__(self, answers):
        self._answers = answers

    def __len__(self):
        return len(self._answers)

    def prompt(self, epoch, row):
        return Prompt(
            uid=f"{epoch}:{row}",
            token_ids=(1,),
            text="q",
            columns={"answer": self._answers[row]},
            address=f"t.jsonl:{row + 1}",
        )


def prompts(*answers):
    rows = Rows(answers)
    return [rows.prompt(0, row) for row in range(len(rows))]


def test_an_answer_that_does_not_score_itself_is_found_with_its_address():
    [failed] = failed_golds({"exact": LAST_LINE}, prompts("6", TWO_LINES, "7"))
    assert str(failed).startswith(
        "t.jsonl:2: verifier=exact does not score the row's own answer 1: it scores 0"
    )


def test_the_reason_of_a_verifier_that_cannot_judge_is_told():
    [failed] = failed_golds({"n": NumericConfig()}, prompts("6", "six"))
    assert (failed.verifier, failed.address) == ("verifier=numeric", "t.jsonl:2")
    assert "must be one plain number" in failed.reason


def test_every_built_in_kind_scores_its_own_answer():
    answers = ["6", "-3", "1,234", "0.5", 7, 2.5, "$5", "so 2\n#### 72", "\\boxed{7}", "50%"]
    kinds = {"math": MathConfig(), "numeric": NumericConfig(), "exact": ExactConfig()}
    assert failed_golds(kinds, prompts(*answers)) == []
    golds = ["1/2", "(1, 2)", "No", "12:30", "{1", "a}", "<think>x</think>y", "The answer is 5."]
    assert failed_golds({"math": MathConfig()}, prompts(*golds)) == []


def test_what_cannot_be_tried_starts_no_worker():
    untried = {
        "function": FunctionConfig(path="no_such_file.py:f"),  # a worker could not load it
        "extract": ExactConfig(extract="<(.*)>", answer_column="answer"),
    }
    assert failed_golds(untried, prompts("6")) == []


def test_the_sample_is_small_and_spread_over_the_data():
    for size in (0, 1, 63, 64, 65, 10**6):
        rows = sampled_rows(size)
        assert min(size, SAMPLE_ROWS) // 2 <= len(rows) <= SAMPLE_ROWS
        assert all(0 <= row < size for row in rows)
    assert sampled_rows(10**6)[-1] > 9 * 10**5


def test_all_rows_are_tried_in_the_background():
    answers = [TWO_LINES if row in (70, 90) else str(row) for row in range(100)]
    warnings = []
    with GoldWatch({"exact": LAST_LINE}, [Rows(answers)], warn=warnings.append) as watch:
        assert watch.wait(60)
    assert (watch.num_tried, watch.num_failed) == (100, 2)
    assert warnings[0].startswith("t.jsonl:71: verifier=exact does not score")
    assert warnings[1:] == ["2 rows have an answer that does not score 1 itself"]


def test_right_answers_are_not_warned_of():
    warnings = []
    rows = Rows([str(row) for row in range(40)])
    with GoldWatch({"exact": LAST_LINE}, [rows], warn=warnings.append) as watch:
        assert watch.wait(60)
    assert (watch.num_tried, warnings) == (40, [])


def test_the_background_ends_with_its_run():
    rows = Rows(["6"] * 100_000)
    with GoldWatch({"exact": LAST_LINE}, [rows], warn=lambda message: None) as watch:
        assert not watch.wait(0.5)
    assert watch.wait(0) and watch.num_tried < 100_000


def test_functions_are_not_tried_in_the_background():
    function = FunctionConfig(path="no_such_file.py:f")
    with GoldWatch({"f": function}, [Rows(["6"])], warn=lambda message: None) as watch:
        assert watch.wait(0)
    assert watch.num_tried == 0
