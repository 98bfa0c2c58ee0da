"""A teacher's most likely tokens and one bucket: laws, and a definition in float64."""

from itertools import pairwise

import pytest
import torch
from plain_distill import divergence, top_divergence

from rlpost.algorithms.distill import DivergenceConfig, compare
from rlpost.algorithms.distill.divergence import StudentLogits
from rlpost.algorithms.distill.top_tokens import compare_top, top_tokens

BETAS = (0.0, 0.3, 1.0)
VOCABULARY, TARGET_C = 11, torch.tensor([2, 0, 1, 10, 3])


def logits(seed, *, padding=0):
    generator = torch.Generator().manual_seed(seed)
    found = 3.0 * torch.randn(5, VOCABULARY, generator=generator)
    return torch.cat([found, torch.full((5, padding), 9.0)], 1)


def found(student_CV, teacher_CV, k, **options):
    config = DivergenceConfig(**options)
    kept = top_tokens(teacher_CV, k=k, vocabulary=VOCABULARY, temperature=config.temperature)
    how = StudentLogits(config=config, vocabulary=VOCABULARY)
    return compare_top(student_CV, kept, TARGET_C, how)


def test_the_kept_numbers_by_hand():
    probs = torch.tensor([[0.5, 0.1, 0.25, 0.15]])
    kept = top_tokens(probs.log(), k=2, vocabulary=4, temperature=1.0)
    assert kept.ids_RK.tolist() == [[0, 2]]
    assert kept.logs_RB.exp().tolist()[0] == pytest.approx([0.5, 0.25, 0.25])
    warm = top_tokens(probs.log(), k=1, vocabulary=2, temperature=0.5)  # two tokens exist
    assert warm.logs_RB.exp().tolist()[0] == pytest.approx([25 / 26, 1 / 26])


@pytest.mark.parametrize("k", [1, 4, VOCABULARY])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", BETAS)
def test_value_and_gradient_are_those_of_the_definition(beta, temperature, k):
    student_CV, teacher_CV = logits(0, padding=3).requires_grad_(), logits(1, padding=2)
    values_C = found(student_CV, teacher_CV, k, beta=beta, temperature=temperature).divergence_C
    leaf = student_CV.detach().double().requires_grad_()
    expected_C = top_divergence(
        leaf[:, :VOCABULARY], teacher_CV[:, :VOCABULARY], k, beta=beta, temperature=temperature
    )
    torch.testing.assert_close(values_C.double(), expected_C, rtol=1e-4, atol=3e-7)
    weight_C = torch.tensor([0.5, 0.0, -1.0, 2.0, 0.25])
    (weight_C * values_C).sum().backward()
    (weight_C.double() * expected_C).sum().backward()
    torch.testing.assert_close(student_CV.grad.double(), leaf.grad, rtol=1e-4, atol=5e-7)
    assert student_CV.grad[:, :VOCABULARY].ne(0)[0].all(), "a token of the bucket learns nothing"


@pytest.mark.parametrize("beta", BETAS)
def test_the_gap_to_the_whole_divergence_shrinks_to_nothing(beta):
    student_CV, teacher_CV = logits(0), logits(1)
    how = StudentLogits(config=DivergenceConfig(beta=beta), vocabulary=VOCABULARY)
    whole_C = compare(student_CV, teacher_CV, TARGET_C, how).divergence_C
    gaps = [
        whole_C - found(student_CV, teacher_CV, k, beta=beta).divergence_C
        for k in range(1, VOCABULARY + 1)
    ]
    assert min(gap.min() for gap in gaps) > -1e-5
    assert all((more - less).max() < 1e-5 for less, more in pairwise(gaps))
    assert gaps[0].min() > 1e-3 and gaps[-1].abs().max() < 1e-5


@pytest.mark.parametrize("beta", BETAS)
def test_without_the_bucket_it_would_be_another_number(beta):
    student_CV, teacher_CV = logits(0), logits(1)
    kept = top_tokens(teacher_CV, k=3, vocabulary=VOCABULARY, temperature=1.0)
    alone = divergence(student_CV.gather(1, kept.ids_RK), kept.logs_RB[:, :-1], beta=beta)
    ours = found(student_CV, teacher_CV, 3, beta=beta).divergence_C
    assert (ours - alone).abs().min() > 1e-4


def test_what_is_measured_beside_it_does_not_depend_on_k():
    student_CV, teacher_CV = logits(0), logits(1)
    one, all_ = (found(student_CV, teacher_CV, k) for k in (1, VOCABULARY))
    for name in ("logprob_C", "entropy_C", "is_top_C", "agrees_C"):
        torch.testing.assert_close(getattr(one, name), getattr(all_, name))


@pytest.mark.parametrize("beta", BETAS)
def test_extreme_logits_give_numbers(beta):
    rows = [[1e4, 0.0, -1e4], [-torch.inf, 0.0, 1.0], [0.0, 0.0, 0.0]]
    teacher_CV = torch.tensor(rows)
    student_CV = teacher_CV.flip(1).requires_grad_()
    for k in (1, 2, 3):
        kept = top_tokens(teacher_CV, k=k, vocabulary=3, temperature=1.0)
        how = StudentLogits(config=DivergenceConfig(beta=beta), vocabulary=3)
        compared = compare_top(student_CV, kept, torch.tensor([1, 0, 1]), how)
        compared.divergence_C.sum().backward()
        assert torch.isfinite(compared.divergence_C).all() and torch.isfinite(student_CV.grad).all()
