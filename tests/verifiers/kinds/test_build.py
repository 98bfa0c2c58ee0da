"""The contract every kind must keep, run on each through the real service.

A new kind joins by one entry in ``CASES``.
"""

import asyncio
import math
import textwrap
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Sample, VerifierConfig
from rlpost.verifiers.kinds import verifiers
from rlpost.verifiers.kinds.build import build
from rlpost.verifiers.kinds.exact import ExactConfig
from rlpost.verifiers.kinds.format import FormatConfig
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.kinds.math import MathConfig
from rlpost.verifiers.kinds.names import NamesConfig
from rlpost.verifiers.kinds.numeric import NumericConfig
from rlpost.verifiers.workers.service import VerifierService

CASES = {
    "exact": ExactConfig,
    "function": FunctionConfig,
    "math": MathConfig,
    "names": NamesConfig,
    "numeric": NumericConfig,
}
NO_ANSWER = {"format": FormatConfig}  # judges by no answer; test_format.py holds it to the same
ANSWERS = ["6", "-3", "1,234", "0.5"]
FUNCTION = """
    def f(completions, answer, **kwargs):
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    file = tmp_path_factory.mktemp("contract") / "rewards.py"
    file.write_text(textwrap.dedent(FUNCTION))
    configs = {
        kind: config(path=f"{file}:f") if kind == "function" else config()
        for kind, config in CASES.items()
    }
    service = VerifierService(configs, num_workers=2)
    yield service
    service.close()


def _judge(service, *samples):
    return asyncio.run(service.judge(samples))


def test_every_registered_kind_is_held_to_the_contract():
    assert {entry.name: entry.config for entry in verifiers} == CASES | NO_ANSWER


@pytest.mark.parametrize("answer", ANSWERS)
def test_gold_scores_one(service, answer):
    [verdicts] = _judge(service, Sample(prompt="q", text=answer, columns={"answer": answer}))
    assert [(v.verifier, v.reward, v.error) for v in verdicts] == [(k, 1.0, None) for k in CASES]


@pytest.mark.parametrize("answer", ANSWERS)
def test_empty_and_wrong_score_zero(service, answer):
    for text in ("", "  \n", "77"):
        [verdicts] = _judge(service, Sample(prompt="q", text=text, columns={"answer": answer}))
        assert [(v.verifier, v.reward) for v in verdicts] == [(k, 0.0) for k in CASES]


def test_repeating_the_question_scores_zero(service):
    for a in range(2, 13):
        for b in range(2, 13):
            text = f"To find {a} * {b}, we multiply both the numerator and"
            sample = Sample(prompt="", text=text, columns={"answer": str(a * b)})
            (verdicts,) = _judge(service, sample)
            assert [v.reward for v in verdicts] == [0.0] * len(verdicts), (text, verdicts)


def test_missing_gold_is_an_error_and_not_zero(service):
    [verdicts] = _judge(service, Sample(prompt="q", text="6", address="f.jsonl:3"))
    assert all(v.reward is None and "f.jsonl:3" in v.error for v in verdicts), verdicts


_garbage = st.text(max_size=200) | st.lists(
    st.sampled_from(["\\frac{", "}", "$", "\\boxed{", "1e9", "^", "-", ",", ".", "=", "\\", "("]),
    max_size=20,
).map("".join)


@given(texts=st.lists(_garbage, min_size=1, max_size=10))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_never_raises_past_the_boundary(service, texts):
    samples = [Sample(prompt="q", text=text, columns={"answer": "6"}) for text in texts]
    for verdicts in _judge(service, *samples):
        for verdict in verdicts:
            assert verdict.reward is None or math.isfinite(verdict.reward)
    assert service.alive() == 2


@pytest.mark.parametrize("kind", sorted(CASES))
def test_required_columns_are_declared(kind):
    expected = () if kind == "function" else ("gold",)
    cfg = CASES[kind]() if kind == "function" else CASES[kind](answer_column="gold")
    assert cfg.required_columns() == expected
    assert cfg.kind == kind


def test_what_check_finds_out_is_no_setting():
    assert not [key for key in OmegaConf.structured(FunctionConfig) if key.startswith("needed")]


@pytest.mark.parametrize("config", CASES.values())
def test_configs_are_hydra_structured_configs(config):
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), {"weight": 0.5}))
    assert typed == config(weight=0.5)


def test_unknown_kind_and_mixed_config_are_refused():
    with pytest.raises(UserError, match="did you mean 'math'"):
        build(VerifierConfig(kind="maths"))
    with pytest.raises(UserError, match="kind=math takes a MathConfig, got ExactConfig"):
        build(ExactConfig(kind="math"))


@pytest.mark.parametrize("kind", ["exact", "math", "numeric"])
def test_a_verifier_abstains_on_rows_that_it_cannot_judge(kind):
    judge = build(CASES[kind](abstains=True))
    for columns in ({}, {"answer": None}, {"answer": " "}, {"answer": ["6"]}):
        assert judge(Sample(prompt="x", text="6", columns=columns)) is None
    assert judge(Sample(prompt="x", text="6", columns={"answer": "6"})) == 1.0
    with pytest.raises(DataError):
        build(CASES[kind]())(Sample(prompt="x", text="6", columns={"answer": " "}))


def test_a_function_abstains_on_rows_without_its_columns(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text(textwrap.dedent(FUNCTION))
    function = FunctionConfig(path=f"{file}:f", abstains=True, needed_columns=["answer"])
    judge = build(function)
    row = {"answer": "6"}
    assert judge(Sample(prompt="x", text="6", columns={})) is None
    assert judge(Sample(prompt="x", text="6", columns=row)) == 1.0
    samples = [Sample(prompt="x", text=text, columns=row) for text in "67"]
    assert judge.together(samples) == [1.0, 0.0]
    assert judge.together([replace(each, columns={}) for each in samples]) == [None, None]
