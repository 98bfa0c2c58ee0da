"""The proof of an adapter: hand-made log-probs of both sides."""

import pytest

from rlpost.errors import UserError
from rlpost.models.tiny import byte_tokenizer
from rlpost.stages.serve.proof import Proof, probe_sequences, prove, require_change

BASE, WANTED = [[-1.0, -2.0]], [[-1.5, -2.0]]


def proved(adapter, *, base=BASE, wanted=WANTED, change=0.5, exact=True):
    return prove(
        base=base, adapter=adapter, wanted=wanted, change=change, exact=exact, field="adapters.a"
    )


def test_what_agrees_with_peft_is_proved():
    found = proved([[-1.5, -2.0005]])
    assert found == Proof(mean=pytest.approx(2.5e-4), largest=pytest.approx(5e-4), change=0.5)


def test_an_adapter_that_changes_nothing_in_peft_is_refused():
    with pytest.raises(UserError, match=r"changes nothing.*all 2 tokens"):
        require_change(BASE, BASE, field="adapters.a")
    assert require_change(BASE, WANTED, field="adapters.a") == 0.5


def test_an_engine_that_computes_something_else_is_refused():
    with pytest.raises(UserError, match="does not compute what plain peft computes"):
        proved([[-1.5, -2.002]])
    with pytest.raises(UserError, match="does not compute what plain peft computes"):
        proved([[-1.5, float("nan")]])
    assert proved([[-1.5, -2.1]], exact=False).mean == pytest.approx(0.05)
    with pytest.raises(UserError, match="does not compute"):
        proved([[-1.5, -2.3]], exact=False)


def test_an_adapter_that_the_engine_leaves_out_is_refused_though_it_is_small():
    near = [[-1.0005, -2.0]]
    with pytest.raises(UserError, match="the same with it as without"):
        proved(BASE, wanted=near, change=5e-4)
    assert proved(near, wanted=near, change=5e-4).largest == 0
    # A change below rounding cannot be seen, whoever computes it.
    assert proved(BASE, wanted=[[-1.00001, -2.0]], change=1e-5)


@pytest.mark.parametrize("longest", [3, 24, 511])
def test_the_probe_fits_the_engine(longest):
    sequences = probe_sequences(byte_tokenizer(), longest=longest)
    assert len(sequences) == 2
    assert {len(each) for each in sequences} == {min(longest, 24)}
