import pytest

from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.contracts.adapter import Contract
from rlpost.verifiers.workers.safe_call import attempt

ROW = {
    "data_source": "openai/gsm8k",
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"index": 3, "split": "train"},
}
VERL = Sample(
    prompt=[{"role": "user", "content": "2+3?"}], text="5", columns=ROW, address="t.parquet[3]"
)
PLAIN = Sample(prompt="2+3?", text="5", columns={"answer": "5"}, address="data/t.jsonl:3")


def test_verls_rows_arrive_as_they_are(load):
    judge = load("""
        def f(data_source, solution_str, ground_truth, extra_info=None):
            assert (data_source, ground_truth) == ("openai/gsm8k", "5")
            assert extra_info == {"index": 3, "split": "train"}
            return float(solution_str == ground_truth)
    """)
    assert judge(VERL) == 1.0


def test_other_rows_give_their_source_and_their_answer(load):
    judge = load("""
        def f(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
            assert (data_source, ground_truth, extra_info) == ("data/t.jsonl", "5", {})
            assert not kwargs
            return float(solution_str == ground_truth)
    """)
    assert judge(PLAIN) == 1.0


@pytest.mark.parametrize(
    ("columns", "truth"),
    [
        ({"reward_model": {"ground_truth": "a"}, "answer": "c"}, "a"),
        ({"reward_model": {"style": "model"}, "ground_truth": "b", "answer": "c"}, "b"),
        ({"ground_truth": None, "answer": "c"}, "c"),
        ({"ground_truth": {"target": ["x", "y"]}}, {"target": ["x", "y"]}),
        ({"answer": 0}, 0),
    ],
)
def test_where_the_ground_truth_is_found(load, columns, truth):
    judge = load("def f(solution_str, ground_truth): return {'score': 1, 'truth': ground_truth}")
    assert judge(Sample(prompt="q", text="x", columns=columns)) == {"reward": 1, "truth": truth}


def test_the_option_names_the_column(load):
    source = "def f(solution_str, ground_truth): return float(ground_truth == 'gold')"
    sample = Sample(prompt="q", text="x", columns={"answer": "no", "target": "gold"})
    assert load(source, answer_column="target")(sample) == 1.0
    source = "def f(solution_str, ground_truth): return float(ground_truth is None)"
    assert load(source, answer_column="")(sample) == 1.0


def test_a_row_without_answer_is_an_error_unless_the_function_can_do_without(load):
    bare = Sample(prompt="q", text="x", address="f.jsonl:7")
    judge = load("def f(data_source, solution_str, ground_truth, extra_info=None): return 1.0")
    with pytest.raises(DataError, match=r"f\.jsonl:7: .* none in .*'answer'.*answer_column=''"):
        judge(bare)
    assert load("def f(solution_str, ground_truth='none'): return 1.0")(bare) == 1.0


def test_other_keys_of_a_dict_are_information(load):
    judge = load("def f(solution_str, **kw): return {'score': 0.5, 'acc': True, 'reward': 7}")
    assert judge(VERL) == {"reward": 0.5, "acc": True, "info.reward": 7}
    assert load("def f(solution_str, **kw): return {'score': 0.5}")(VERL) == 0.5


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ("None", "returned None, where verl's functions return a number"),
        ("{'score': None}", "returned None"),
        ("{'acc': 1.0}", r"a dict without 'score': \['acc'\]"),
    ],
)
def test_no_score_is_an_error_and_no_abstention(load, returned, text):
    with pytest.raises(TypeError, match=text):
        load(f"def f(solution_str, **kw): return {returned}")(VERL)


def test_coroutines(load):
    assert load("async def f(solution_str, ground_truth): return 1.0")(VERL) == 1.0


def test_plural_parameters_are_verls_batch_manager(load):
    judge = load("""
        def f(data_sources, solution_strs, ground_truths, extra_infos):
            assert data_sources == ["openai/gsm8k"] and extra_infos[0]["index"] == 3
            return [{"score": float(s == g), "n": len(solution_strs)}
                    for s, g in zip(solution_strs, ground_truths)]
    """)
    assert judge(VERL) == {"reward": 1.0, "n": 1}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ("solution_str, method", r"needs \['method'\], but a verl function is called with"),
        ("solution_str, /, ground_truth", "by position only"),
        ("*, reward_router_address, solution_str", r"needs \['reward_router_address'\]"),
    ],
)
def test_parameters_that_verl_does_not_fill_are_refused(load, parameters, text):
    with pytest.raises(UserError, match=text):
        load(f"def f({parameters}): return 1.0")


def test_the_option_needs_a_function_that_takes_the_response(load):
    with pytest.raises(UserError, match="does not accept 'solution_str'"):
        load("def f(answer): ...", contract=Contract.verl)
    source = "def f(**kw): return float(kw['solution_str'] == kw['ground_truth'])"
    assert load(source, contract=Contract.verl)(VERL) == 1.0


def test_the_functions_own_error_is_not_swallowed(load):
    judge = load("def f(solution_str, **kw): return 1 / 0")
    assert attempt(lambda: judge(VERL))[1].startswith("ZeroDivisionError")


def test_a_batch_is_one_call_with_lists_and_one_bad_score_fails_alone(load):
    judge = load("""
        def f(data_sources, solution_strs, ground_truths, extra_infos):
            return [len(solution_strs), {"acc": 1}, {"score": 0.5, "acc": 1}]
    """)
    first, second, third = judge.together([VERL] * 3)
    assert (first, third) == (3, {"reward": 0.5, "acc": 1})
    assert isinstance(second, TypeError)
