"""The divergence against its definition in float64, at its ends, at extremes, by differences."""

import math

import pytest
import torch

from rlpost.algorithms.distill import DivergenceConfig
from rlpost.algorithms.distill import compare as compare_tokens
from rlpost.algorithms.distill.divergence import StudentLogits

BETAS = (0.0, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6, 1.0)
TARGET_C = torch.tensor([2, 0, 1, 4, 3])


def by_definition(student_CV, teacher_CV, beta, temperature=1.0):
    """Sum over probabilities in float64, as the paper writes it."""
    q = torch.softmax(student_CV.double() / temperature, 1)
    p = torch.softmax(teacher_CV.double() / temperature, 1)

    def kl(a, b):
        return (a * (a / b).log()).sum(1)

    if beta == 0:
        return kl(p, q)
    if beta == 1:
        return kl(q, p)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def compare(student_CV, teacher_CV, target_C, config, **options):
    """Compare over all tokens that both have."""
    vocabulary = min(student_CV.shape[1], teacher_CV.shape[1])
    logits = StudentLogits(config=config, **{"vocabulary": vocabulary, **options})
    return compare_tokens(student_CV, teacher_CV, target_C, logits)


def logits(seed, *, scale=2.0, rows=5, vocabulary=7):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, vocabulary, generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("beta", BETAS)
def test_value_and_gradient_are_those_of_the_definition(beta, temperature):
    student_CV, teacher_CV = logits(0).requires_grad_(), logits(1)
    config = DivergenceConfig(beta=beta, temperature=temperature)
    found_C = compare(student_CV, teacher_CV, TARGET_C, config).divergence_C
    leaf = student_CV.detach().double().requires_grad_()
    expected_C = by_definition(leaf, teacher_CV, beta, temperature)
    torch.testing.assert_close(found_C.double(), expected_C, rtol=1e-4, atol=3e-7)
    weight_C = torch.tensor([0.5, 0.0, -1.0, 2.0, 0.25])
    (weight_C * found_C).sum().backward()
    (weight_C.double() * expected_C).sum().backward()
    torch.testing.assert_close(student_CV.grad.double(), leaf.grad, rtol=1e-4, atol=3e-7)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gradient_is_that_of_finite_differences(beta):
    student_CV, teacher_CV = logits(0, rows=1), logits(1, rows=1)
    leaf = student_CV.clone().requires_grad_()
    config = DivergenceConfig(beta=beta)
    compare(leaf, teacher_CV, TARGET_C[:1], config).divergence_C.sum().backward()
    step = 1e-4
    for place in range(student_CV.shape[1]):
        moved = torch.zeros_like(student_CV, dtype=torch.float64)
        moved[0, place] = step
        ahead = by_definition(student_CV.double() + moved, teacher_CV, beta)
        behind = by_definition(student_CV.double() - moved, teacher_CV, beta)
        difference = ((ahead - behind) / (2 * step)).item()
        assert leaf.grad[0, place].item() == pytest.approx(difference, abs=1e-5)


def test_values_by_hand():
    # The teacher knows the token, the student has two equal guesses.
    teacher_CV, student_CV = torch.tensor([[0.0, -200.0]]), torch.zeros(1, 2)

    def value(beta):
        config = DivergenceConfig(beta=beta)
        return compare(student_CV, teacher_CV, torch.tensor([0]), config).divergence_C.item()

    assert value(0.0) == pytest.approx(math.log(2))
    assert value(1.0) == pytest.approx(100 - math.log(2))
    half = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert value(0.5) == pytest.approx(half)


@pytest.mark.parametrize("beta", BETAS)
def test_it_is_zero_between_equals_and_never_negative(beta):
    config = DivergenceConfig(beta=beta)
    student_CV = logits(0).requires_grad_()
    same_C = compare(student_CV, student_CV, TARGET_C, config).divergence_C
    same_C.sum().backward()
    assert same_C.abs().max() < 1e-6 and student_CV.grad.abs().max() < 1e-6
    others_C = compare(logits(2), logits(3), TARGET_C, config).divergence_C
    assert (others_C >= 0).all()


def test_near_an_end_it_is_that_end_times_the_small_weight():
    student_CV, teacher_CV = logits(0), logits(1)

    def value_C(beta):
        return by_definition(student_CV, teacher_CV, beta)

    torch.testing.assert_close(value_C(1e-7) / 1e-7, value_C(0.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(value_C(1 - 1e-7) / 1e-7, value_C(1.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_extreme_logits_give_numbers(beta, dtype):
    huge = torch.finfo(dtype).max
    rows = [[1e4, 0.0, -1e4], [huge, -huge, 0.0], [-math.inf, 0.0, 1.0], [0.0, 0.0, 0.0]]
    teacher_CV = torch.tensor(rows).to(dtype)
    student_CV = teacher_CV.clone().requires_grad_()
    config = DivergenceConfig(beta=beta)
    same = compare(student_CV, teacher_CV, torch.tensor([1, 0, 1, 2]), config)
    same.divergence_C.sum().backward()
    assert same.divergence_C.tolist() == pytest.approx([0.0] * 4, abs=1e-6)
    assert torch.isfinite(student_CV.grad).all() and torch.isfinite(same.entropy_C).all()
    crossed = compare(student_CV, teacher_CV.flip(1), torch.tensor([1, 0, 1, 2]), config)
    assert torch.isfinite(crossed.divergence_C).all() and (crossed.divergence_C[:3] > 0.1).all()


def test_what_is_measured_beside_it():
    student_CV, teacher_CV = logits(0), logits(1)
    found = compare(
        student_CV, teacher_CV, TARGET_C, DivergenceConfig(temperature=2.0), temperature=1.0
    )
    log_CV, hot_CV = student_CV.log_softmax(1), (student_CV / 2).log_softmax(1)
    torch.testing.assert_close(
        found.logprob_C, log_CV.gather(1, TARGET_C[:, None]).squeeze(1), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(found.entropy_C, -(hot_CV.exp() * hot_CV).sum(1))
    assert found.is_top_C.tolist() == (student_CV.argmax(1) == TARGET_C).tolist()
    assert found.agrees_C.tolist() == (student_CV.argmax(1) == teacher_CV.argmax(1)).tolist()


def test_rows_do_not_depend_on_what_is_computed_with_them(monkeypatch):
    monkeypatch.setattr("rlpost.algorithms.rows._CACHED_VALUES", 14)  # two rows at a time
    student_CV, teacher_CV = logits(0).requires_grad_(), logits(1)
    config = DivergenceConfig(beta=0.3)
    parts = compare(student_CV, teacher_CV, TARGET_C, config)
    parts.divergence_C.sum().backward()
    gradient_CV, student_CV.grad = student_CV.grad, None
    monkeypatch.undo()
    whole = compare(student_CV, teacher_CV, TARGET_C, config)
    whole.divergence_C.sum().backward()
    torch.testing.assert_close(parts.divergence_C, whole.divergence_C)
    torch.testing.assert_close(gradient_CV, student_CV.grad)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_padding_is_not_compared_and_gets_no_gradient(beta):
    student_CV = torch.cat([logits(0), torch.full((5, 2), 9.0)], 1).requires_grad_()
    teacher_CV = torch.cat([logits(1), torch.full((5, 3), -9.0)], 1)
    found = compare(student_CV, teacher_CV, TARGET_C, DivergenceConfig(beta=beta), vocabulary=7)
    expected_C = by_definition(logits(0), logits(1), beta)
    torch.testing.assert_close(found.divergence_C.double(), expected_C, rtol=1e-4, atol=3e-7)
    of_all_C = student_CV.log_softmax(1).gather(1, TARGET_C[:, None]).squeeze(1)
    torch.testing.assert_close(found.logprob_C, of_all_C)
    found.divergence_C.sum().backward()
    leaf = logits(0).requires_grad_()
    compare(leaf, logits(1), TARGET_C, DivergenceConfig(beta=beta)).divergence_C.sum().backward()
    torch.testing.assert_close(student_CV.grad[:, :7], leaf.grad)
    assert not student_CV.grad[:, 7:].any() and not found.is_top_C.any()
