"""The algebra of one weight against least squares by brute force, and spectra known by hand."""

import math

import pytest
import torch

from rlpost.training.adapters.capacity import (
    Energy,
    Spectrum,
    energies,
    reach,
    rows_basis,
    unreachable,
)


def rest_by_least_squares(gradient, a, b):
    """What is left of a gradient after the best ``dB A + B dA``, by solving for dA and dB."""
    (num_out, num_in), rank = gradient.shape, len(a)
    columns = []
    for i in range(num_out):
        for k in range(rank):
            change = torch.zeros(num_out, rank, dtype=torch.float64)
            change[i, k] = 1
            columns.append((change @ a).flatten())
    for k in range(rank):
        for j in range(num_in):
            change = torch.zeros(rank, num_in, dtype=torch.float64)
            change[k, j] = 1
            columns.append((b @ change).flatten())
    design = torch.stack(columns, dim=1)
    solved = torch.linalg.lstsq(design, gradient.flatten(), driver="gelsd").solution
    return (gradient.flatten() - design @ solved).view_as(gradient)


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_rest_is_that_of_least_squares(rank):
    gradient, a, b = random(5, 7), random(rank, 7), random(5, rank)
    expected = rest_by_least_squares(gradient, a, b)
    found = unreachable(gradient.float(), a_rI=a, b_Or=b)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    by_a = unreachable(gradient.float(), a_rI=a, b_Or=torch.zeros_like(b))
    by_b = unreachable(gradient.float(), a_rI=torch.zeros_like(a), b_Or=b)
    assert (by_a - expected).norm() > 0.1 < (by_b - expected).norm()  # each is half of it


def test_a_fresh_adapter_reaches_the_rows_of_a_alone():
    gradient, a, b = random(5, 7), random(2, 7), torch.zeros(5, 2, dtype=torch.float64)
    expected = rest_by_least_squares(gradient, a, b)
    found = unreachable(gradient.float(), a_rI=a, b_Or=b)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    assert reach(a_rI=a, b_Or=b) == 2 * 5


def test_dependent_columns_count_once():
    a, b = random(3, 7), random(5, 1).repeat(1, 3)
    gradient = random(5, 7)
    found = unreachable(gradient.float(), a_rI=a, b_Or=b)
    torch.testing.assert_close(
        found.double(), rest_by_least_squares(gradient, a, b), atol=1e-5, rtol=0
    )
    assert rows_basis(b.T).shape == (5, 1)
    assert reach(a_rI=a, b_Or=b) == 5 * 7 - 4 * 4


def test_dimensions_are_those_of_the_space():
    a, b = random(2, 7), random(5, 2)
    assert reach(a_rI=a, b_Or=b) == 2 * (5 + 7 - 2)


def test_energies_are_those_of_the_halves_gradients():
    x, g, a, b = random(6, 7), random(6, 5), random(2, 7), random(5, 2)
    in_first = torch.tensor([True, True, False, False, True, False])
    whole, rest = energies(x, g, in_first, a_rI=a, b_Or=b)
    first, second = (g[mask].T @ x[mask] for mask in (in_first, ~in_first))
    assert whole.whole == pytest.approx(float((g.T @ x).square().sum()), rel=1e-5)
    assert whole.agreement == pytest.approx(
        float((first * second).sum() / (first.norm() * second.norm())), rel=1e-4
    )
    expected = rest_by_least_squares(g.T @ x, a, b).square().sum()
    assert rest.whole == pytest.approx(float(expected), rel=1e-4)


def test_noise_has_energy_and_nothing_in_common():
    """A gradient of rank 1 that both halves have, under noise with a hundred times its energy."""
    signal = torch.outer(torch.ones(60), torch.ones(80))
    noise = torch.randn(2, 60, 80, generator=torch.Generator().manual_seed(0)) * 10
    seen = Energy.of(signal + noise[0], signal + noise[1])
    assert seen.first / signal.square().sum() == pytest.approx(101, rel=0.1)
    assert seen.common / float(signal.square().sum()) == pytest.approx(1, abs=5)
    assert abs(Energy.of(*noise).agreement) < 0.05
    assert Energy.of(signal, signal).agreement == pytest.approx(1)
    assert Energy.of(signal, 0 * signal).agreement is None


def test_equal_values_have_the_rank_of_their_number():
    a, b = torch.eye(4, 9), torch.eye(6, 4)
    spectrum = Spectrum.of(a_rI=a, b_Or=b, scale=2.0)
    torch.testing.assert_close(spectrum.values_K, torch.full((4,), 2.0))
    assert spectrum.effective_rank == pytest.approx(4)
    assert spectrum.stable_rank == pytest.approx(4)
    assert spectrum.top_share == pytest.approx(0.25)


def test_a_spectrum_is_that_of_the_product():
    a, b = random(3, 7).float(), random(5, 3).float()
    spectrum = Spectrum.of(a_rI=a, b_Or=b, scale=0.5)
    values = torch.linalg.svdvals(0.5 * b @ a)[:3]
    torch.testing.assert_close(spectrum.values_K, values)
    shares = (values / values.sum()).tolist()
    entropy = -sum(share * math.log(share) for share in shares)
    assert spectrum.effective_rank == pytest.approx(math.exp(entropy), rel=1e-4)


def test_an_update_of_zeros_has_no_spectrum():
    assert Spectrum.of(a_rI=random(3, 7), b_Or=torch.zeros(5, 3), scale=1.0) is None
