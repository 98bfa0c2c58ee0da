import pytest

from rlpost.errors import UserError
from rlpost.verifiers.contracts.adapter import Contract
from rlpost.verifiers.contracts.choice import adapter_of
from rlpost.verifiers.contracts.signature import Signature

SIGNATURES = {
    "prompts, completions, **kwargs": "TRL",
    "completions": "TRL",
    "completion_ids, **columns": "TRL",
    "prompts, **columns": "TRL",
    "completions, ground_truth, labels, **kwargs": "TRL",  # as columns
    "data_source, solution_str, ground_truth, extra_info=None": "verl",
    "data_source, solution_str, ground_truth, extra_info=None, **kwargs": "verl",
    "solution_str, ground_truth": "verl",
    "data_sources, solution_strs, ground_truths, extra_infos": "verl",
    "queries, prompts, labels": "OpenRLHF",
    "queries, prompts, labels, **kwargs": "OpenRLHF",
    "queries, prompts, labels, /": "OpenRLHF",
}
AMBIGUOUS = [
    "",
    "**kwargs",
    "*args, **kwargs",
    "prompts, labels, **kwargs",
    "ground_truth, extra_info, **kwargs",
    "text, gold",
    "completions, solution_str, **kwargs",
    "queries, completions, **kwargs",
]


def _chosen(parameters, contract=Contract.auto):
    function = eval(f"lambda {parameters}: None")
    signature = Signature.of(function, path="r.py:f")
    return adapter_of(signature, contract=contract, path="r.py:f").title


@pytest.mark.parametrize(("parameters", "title"), SIGNATURES.items())
def test_recognised_by_a_name_that_only_one_framework_uses(parameters, title):
    assert _chosen(parameters) == title
    assert _chosen(parameters, Contract(title.lower())) == title


@pytest.mark.parametrize("parameters", AMBIGUOUS)
def test_what_nobody_can_tell_is_refused_with_the_three_spellings_and_the_option(parameters):
    with pytest.raises(UserError) as refused:
        _chosen(parameters)
    for words in ("completions, **columns", "solution_str, ground_truth", "queries, prompts"):
        assert words in str(refused.value)
    assert "verifier.contract=trl|verl|openrlhf" in str(refused.value)


@pytest.mark.parametrize("parameters", ["**kwargs", "*args, **kwargs"])
@pytest.mark.parametrize("contract", [Contract.trl, Contract.verl, Contract.openrlhf])
def test_the_option_decides_where_the_names_say_nothing(parameters, contract):
    assert _chosen(parameters, contract).lower() == contract.value


@pytest.mark.parametrize(("parameters", "title"), SIGNATURES.items())
@pytest.mark.parametrize("contract", [Contract.trl, Contract.verl, Contract.openrlhf])
def test_the_option_cannot_make_one_frameworks_function_anothers(parameters, title, contract):
    if contract.value == title.lower():
        return
    with pytest.raises(UserError, match=f"contract={contract.value} does not fit .* {title};"):
        _chosen(parameters, contract)


def test_the_option_settles_a_mixture():
    assert _chosen("queries, completions, **kwargs", Contract.trl) == "TRL"
