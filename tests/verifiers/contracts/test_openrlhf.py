import pytest

from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.contracts.adapter import Contract

PROMPT = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
SAMPLE = Sample(
    prompt=[{"role": "user", "content": "2+3?"}],
    text="5",
    prompt_text=PROMPT,
    columns={"answer": "5"},
    address="f.jsonl:3",
)


def test_queries_are_what_the_model_read_and_wrote(load):
    judge = load(f"""
        def f(queries, prompts, labels):
            assert prompts == [{PROMPT!r}], prompts
            return [float(q[len(p):] == l) for q, p, l in zip(queries, prompts, labels)]
    """)
    assert judge(SAMPLE) == 1.0


def test_a_string_prompt_without_template_is_its_own_text(load):
    judge = load("def f(queries, prompts, labels): return [float(queries == ['2+3?5'])]")
    assert judge(Sample(prompt="2+3?", text="5", columns={"label": "5"})) == 1.0


@pytest.mark.parametrize(
    "returned",
    [
        "[0.5]",
        "torch.tensor([0.5])",
        "torch.tensor([[0.5]])",
        "torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True)",
        "torch.tensor(0.5)",
        "numpy.array([0.5])",
        "{'rewards': torch.tensor([0.5])}",
        "{'rewards': 0.5, 'scores': None, 'extra_logs': None}",
    ],
)
def test_the_forms_of_a_reward(load, returned):
    judge = load(f"""
        import numpy, torch
        def f(queries, prompts, labels, **kwargs): return {returned}
    """)
    assert judge(SAMPLE) == 0.5


def test_scores_and_extra_logs_are_information_and_rewards_train(load):
    judge = load("""
        import torch
        def f(queries, prompts, labels):
            return {"rewards": torch.tensor([-1.0]), "scores": torch.tensor([0.25]),
                    "extra_logs": {"per": torch.tensor([3.0]), "all": torch.tensor(4.0), "n": 2}}
    """)
    assert judge(SAMPLE) == {"reward": -1.0, "scores": 0.25, "per": 3.0, "all": 4.0, "n": 2}


@pytest.mark.parametrize(
    ("returned", "error", "text"),
    [
        ("None", TypeError, "must return a list of rewards, got NoneType"),
        ("'1'", TypeError, "must return a list of rewards, got str"),
        ("{'scores': [1.0]}", TypeError, "a dict without 'rewards'"),
        ("[None]", TypeError, "returned None, where OpenRLHF's"),
        ("[1.0, 2.0]", ValueError, "got 2 for 1"),
    ],
)
def test_no_reward_is_an_error(load, returned, error, text):
    with pytest.raises(error, match=text):
        load(f"def f(queries, prompts, labels): return {returned}")(SAMPLE)


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"label": "a", "answer": "b"}, "a"),
        ({"answer": "b", "ground_truth": "c"}, "b"),
        ({"reward_model": {"ground_truth": "d"}}, "d"),
    ],
)
def test_where_labels_are_found(load, columns, label):
    judge = load(f"def f(queries, prompts, labels): return [float(labels == [{label!r}])]")
    assert judge(Sample(prompt="q", text="x", columns=columns)) == 1.0


def test_a_row_without_label(load):
    bare = Sample(prompt="q", text="x", address="f.jsonl:7")
    source = "def f(queries, prompts, labels): return [float(labels == [''])]"
    with pytest.raises(DataError, match=r"f\.jsonl:7: .* needs the answer"):
        load(source)(bare)
    assert load(source, answer_column="")(bare) == 1.0
    assert load("def f(queries, prompts, labels=None): return [1.0]")(bare) == 1.0


def test_the_option_calls_by_position_as_openrlhf_does(load):
    source = "def f(q, p, l): return [float(q[0] == p[0] + l[0])]"
    assert load(source, contract=Contract.openrlhf)(SAMPLE) == 1.0
    for parameters, text in (
        ("a, b", "cannot be called with three lists"),
        ("a, b, c, d", r"needs \['d'\]"),
        ("a, b, c, *, d", r"needs \['d'\]"),
    ):
        with pytest.raises(UserError, match=text):
            load(f"def f({parameters}): ...", contract=Contract.openrlhf)
    with pytest.raises(UserError, match=r"needs \['threshold'\]"):
        load("def f(queries, prompts, labels, threshold): ...")


def test_a_group_is_one_call_with_lists(load):
    judge = load("""
        import torch
        def f(queries, prompts, labels):
            best = torch.tensor([float(len(q) == max(map(len, queries))) for q in queries])
            return {"rewards": best, "scores": best / 2, "extra_logs": {"all": best.mean()}}
    """)
    other = Sample(prompt="", text="5!", prompt_text=PROMPT, columns={"answer": "5"})
    assert judge.together([SAMPLE, other]) == [
        {"reward": 0.0, "scores": 0.0, "all": 0.5},
        {"reward": 1.0, "scores": 0.5, "all": 0.5},
    ]


def test_a_missing_reward_fails_alone(load):
    judge = load("def f(queries, prompts, labels): return [1.0, None]")
    reward, error = judge.together([SAMPLE, SAMPLE])
    assert reward == 1.0 and isinstance(error, TypeError)


def test_a_number_for_one_response_is_none_for_two(load):
    judge = load("def f(queries, prompts, labels): return 1.0")
    assert judge(SAMPLE) == 1.0
    assert all(isinstance(each, TypeError) for each in judge.together([SAMPLE, SAMPLE]))
